"""Faults of feature-guided black-box testing."""

from functools import partial

from tests.faults.planting import Fault

Part = partial(Fault, part="_pixel_game")

FAULTS = (
    Fault("dark blobs not found", "(blurred[1:] - blurred[:-1]).abs()", "(blurred[1:] - blurred[:-1])"),
    Fault("weakest keypoints", "responses.argsort(descending=True, stable=True)", "responses.argsort(stable=True)"),
    Fault("one size for all", "torch.tensor(_SCALES)[found[order, 0].cpu()]", "torch.full((len(order),), 1.0)"),
    Fault("first channel alone", "image.detach().double().mean(dim=0)", "image.detach().double()[0]"),
    Fault("Gaussian of twice the width", "(2 * sizes[:, None].double() ** 2)", "(8 * sizes[:, None].double() ** 2)"),
    Fault("weights not normalised", "(responses / responses.sum()).double()", "responses.double()"),
    Fault("rows and columns the other way", "(rows.flatten() - places[:, :1])", "(rows.flatten() - places[:, 1:])"),
    Fault("searched in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
    Fault("wrong images are searched", "if asked.wrong(image[None])[0]:", "if asked.wrong(image[None])[0] and False:"),
    Fault("more queries than are left", "min(_CHUNK, asked.left)", "_CHUNK"),
    Fault("nothing restored", "restored(changed, image, asked, generator)", "changed"),
    Fault("as many pixels as the best try", "[: fewest - 1]", "[:fewest]"),
    Fault(
        "search goes on at one pixel", "while asked.left > 0 and fewest > 1:", "while asked.left > 0 and fewest > 0:"
    ),
    Fault("upwards alone", "(self.step if turn % 2 else -self.step)", "self.step"),
    Fault("bounds not kept", "moved.clamp(*self.bounds)", "moved"),
    Fault(
        "keypoints not looked at",
        "overall, root = weights @ around + 1e-12",
        "overall, root = torch.ones_like(around[0])",
    ),
    Part("queries not counted", "self.left -= len(images)", "self.left -= 1"),
    Part(
        "restored where the class comes back", "if asked.wrong(tried[None])[0]:", "if not asked.wrong(tried[None])[0]:"
    ),
    Part("restored beyond the queries", "        if asked.left <= 0:", "        if False:"),
    Part("bound without visits", "math.log(self.visits) / place.visits)", "math.log(self.visits))"),
    Part("sum of rewards", "sign * place.reward / place.visits", "sign * place.reward"),
)
