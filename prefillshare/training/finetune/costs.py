"""What a range of sharing ratios and a teacher cost, in tokens, before a run starts."""

from prefillshare.config.training import Training
from prefillshare.training.finetune.examples import Examples
from prefillshare.training.finetune.feed import ratio_range
from prefillshare.training.finetune.ratios import RatioRange
from prefillshare.training.layout import boundaries_of, segment_bounds


def cost_figures(training: Training, examples: Examples) -> dict[str, int]:
    """Tokens of one pass over the data, of what the run has; empty for one that has neither."""
    figures: dict[str, int] = {}
    if (ratios := ratio_range(training)) is not None:
        figures["num_module_tokens"], figures["num_module_tokens_shared"] = _count_module_tokens(examples, ratios)
    if training.distillation is not None:
        figures["num_teacher_tokens"] = len(examples.shard.tokens)
    return figures


def cost_lines(training: Training, figures: dict[str, int]) -> list[str]:
    """The same for people."""
    lines = []
    if training.sharing_ratio is not None:
        lowest, highest = training.sharing_ratio
        drawn, shared = figures["num_module_tokens"], figures["num_module_tokens_shared"]
        lines.append(
            f"sharing   {lowest:.0%} to {highest:.0%} of a prompt the base's: the module computes {drawn:,} tokens "
            f"with gradient, {drawn / shared:.1f} times as many as with all of it"
        )
    if training.distillation is not None:
        lines.append(f"teacher   the adapter as it is: {figures['num_teacher_tokens']:,} tokens more without gradient")
    return lines


def _count_module_tokens(examples: Examples, ratios: RatioRange) -> tuple[int, int]:
    """Tokens that the decode module computes in the first epoch, and would if all prompts were shared whole."""
    num_drawn = num_shared = 0
    for index in range(len(examples)):
        ratio = ratios.draw(0, index)
        for _, weights in examples[index]:
            bounds = segment_bounds(weights)
            # From the boundary up to y_{m-1}; y_m is never fed.
            starts = boundaries_of(bounds, ratio)
            num_drawn += sum(end - 1 - start for (_, end), start in zip(bounds, starts, strict=True))
            num_shared += sum(end - first for first, end in bounds)
    return num_drawn, num_shared
