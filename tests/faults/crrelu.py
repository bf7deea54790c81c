"""Faults of CRReLU."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("exponent without the half", "torch.exp(x * x / -2)", "torch.exp(x * x / -1)"),
    Fault("bump without its x", "eps * (x * torch.exp", "eps * (torch.exp"),
    Fault("bump taken away", "F.relu(x) + eps", "F.relu(x) - eps"),
    Fault("bump on the negative side only", "eps * (x * torch", "eps * (x.clamp(max=0) * torch"),
    Fault("eps cut off from its gradient", "corrected_relu(x, self.eps.to", "corrected_relu(x, self.eps.detach().to"),
    Fault("frozen eps learned", "requires_grad=learnable", "requires_grad=True"),
    Fault("format of eps in place of that of x", "self.eps.to(x.dtype)", "self.eps.expand(x.shape)"),
    Fault("density not scaled to 1", "return x, mass / mass.sum()", "return x, mass * (high - low) / _CELLS"),
    Fault("square whose gradient overflows", "torch.exp(x * x / -2)", "torch.exp(x.square() / -2)"),
    Fault("cumulative distribution a cell early", "rises.cumsum(0) - rises", "rises.cumsum(0)"),
    Fault("lower bound not added", "starts = least + rises", "starts = rises"),
    Fault("steps between points", "(place - cell) * rises", "0 * place * rises"),
    Fault("slope taken twice", "torch.xlogy(mass, slope)", "2 * torch.xlogy(mass, slope)"),
    Fault("width of a cell left out", " + math.log(width)", " + 0 * width"),
    Fault("flat activations let through", "~(slope > 0)", "(slope != slope)"),
    Fault("ascent of the entropy", "return -(density(y)", "return (density(y)"),
    Fault("second derivative left out", "second / first + _derivative", "0 * second / first + _derivative"),
    Fault("density's slope not scaled", "_derivative(density, y) * first)", "_derivative(density, y))"),
)
