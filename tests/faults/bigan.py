"""Faults of BiGAN."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "labels exchanged for the critic",
        "F.softplus(-real_scores).mean() + F.softplus(fake_scores)",
        "F.softplus(real_scores).mean() + F.softplus(-fake_scores)",
    ),
    Fault(
        "data alone",
        "F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()",
        "F.softplus(-real_scores).mean()",
    ),
    Fault(
        "samples alone", "return bigan_critic_loss(fake_scores, real_scores)", "return F.softplus(-fake_scores).mean()"
    ),
    Fault(
        "the model plays with the critic",
        "return bigan_critic_loss(fake_scores, real_scores)",
        "return bigan_critic_loss(real_scores, fake_scores)",
    ),
    Fault(
        "the loss that saturates",
        "return bigan_critic_loss(fake_scores, real_scores)",
        "return -bigan_critic_loss(real_scores, fake_scores)",
    ),
    Fault("no scores accepted", "if not scores.numel() or not scores", "if not scores"),
    Fault(
        "codes not seen",
        "torch.cat([inputs.flatten(1), latent.flatten(1)]",
        "torch.cat([inputs.flatten(1), 0 * latent.flatten(1)]",
    ),
    Fault("codes first", "[inputs.flatten(1), latent.flatten(1)]", "[latent.flatten(1), inputs.flatten(1)]"),
    Fault(
        "codes of samples",
        "self.critic(self.decoder(latent), latent)",
        "self.critic(self.decoder(latent), self.encoder(self.decoder(latent)))",
    ),
    Fault(
        "reconstructions of data",
        "PairScores(self.critic(inputs, self.encoder(inputs))",
        "PairScores(self.critic(self.reconstruct(inputs), self.encoder(inputs))",
    ),
    Fault(
        "codes without a gradient",
        "self.critic(inputs, self.encoder(inputs))",
        "self.critic(inputs, self.encoder(inputs).detach())",
    ),
    Fault(
        "samples without a gradient",
        "self.critic(self.decoder(latent), latent)",
        "self.critic(self.decoder(latent).detach(), latent)",
    ),
    Fault(
        "optimizers not told apart", "if any(id(each) in critics for each in _held(optimizer)):", "if critics is None:"
    ),
    Fault(
        "a critic's optimizer of others",
        "if any(id(each) not in critics for each in _held(critic_optimizer)):",
        "if critics is None:",
    ),
    Fault("one latent variable for all", "self.latent(len(inputs), self.generator)", "self.latent(1, self.generator)"),
    Fault("trained in evaluation mode", "self.model.train()", "self.model.eval()"),
    Fault("one loss for both", "(self.optimizer, bigan_model_loss(*scores))", "(self.optimizer, loss)"),
    Fault("no inputs accepted", "if not len(inputs):", "if inputs is None:"),
    Fault("the critic stands still", "            optimizer.step()", "            self.optimizer.step()"),
    Fault("parameters that take no part", ", allow_unused=True", ""),
    Fault("frozen parameters asked for", ' in group["params"] if each.requires_grad]', ' in group["params"]]'),
    Fault("a generator that begins again", 'self.generator.set_state(state_dict["generator"])', "pass"),
    Fault(
        "a critic's moments forgotten", 'self.critic_optimizer.load_state_dict(state_dict["critic_optimizer"])', "pass"
    ),
    Fault("a loss with its graph", "return loss.detach()", "return loss"),
)
