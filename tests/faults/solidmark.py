"""Faults of SolidMark."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("border one pixel narrow", "slice(t, n - t) if border", "slice(t - 1, n - t) if border", part="_grey_mark"),
    Fault(
        "centre one pixel off",
        "slice((n - t) // 2, (n + t) // 2)",
        "slice((n - t) // 2 + 1, (n + t) // 2 + 1)",
        part="_grey_mark",
    ),
    Fault(
        "mark and image exchanged",
        "marked[:, rows, columns] = not border",
        "marked[:, rows, columns] = border",
        part="_grey_mark",
    ),
    Fault(
        "key in the units of the network",
        "torch.where(mask, keys.to(marked)",
        "torch.where(mask, 2 * keys.to(marked) - 1",
        part="_grey_mark",
    ),
    Fault(
        "known part hidden, too",
        "marked.masked_fill(self._mask_of(marked), 0.5)",
        "torch.full_like(marked, 0.5)",
        part="_grey_mark",
    ),
    Fault(
        "read from the whole image",
        "marked[:, :, self._mask_of(marked)[0]].flatten(1)",
        "marked.flatten(1)",
        part="_grey_mark",
    ),
    Fault(
        "keys from the global random state",
        "torch.rand(len(images), generator=generator, ",
        "torch.rand(len(images), ",
        part="_grey_mark",
    ),
    Fault(
        "other noise for every key", "latents[::grid], generator).repeat_interleave(grid, dim=0)", "latents, generator)"
    ),
    Fault("keys and images crossed", "keys.repeat(count)", "keys.repeat_interleave(count)"),
    Fault(
        "labels and images crossed", "torch.arange(count).repeat_interleave(grid)", "torch.arange(count).repeat(grid)"
    ),
    Fault("least likely key", "errors == errors.amin(", "errors == errors.amax("),
    Fault(
        "first of equally likely keys",
        "chosen = torch.multinomial(best, 1, generator=generator)[:, 0]",
        "chosen = best.argmax(dim=1)",
    ),
    Fault("mean over the times forgotten", "/ (times * repeats)", "/ repeats"),
    Fault("one pass for all read-outs", '5 if readout == "resample" else 1', "1"),
    Fault("all images asked with the first labels", "given[part]", "given[: len(images[part])]"),
)
