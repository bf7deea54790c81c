"""Faults of distilled prompts."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("above the cut alone", "sum(score >= cut for", "sum(score > cut for"),
    Fault("mean score", "sum(score >= cut for score in scores) / len(scores)", "sum(scores) / len(scores)"),
    Fault("shares above the least alone", "if share >= min_unsafe and", "if share > min_unsafe and"),
    Fault(
        "the largest text score is kept", "record.text_score < max_text_score", "record.text_score <= max_text_score"
    ),
    Fault("texts that look unsafe", "record.text_score < max_text_score", "record.text_score > max_text_score"),
    Fault(
        "any filter will do",
        "all(passes(record.text) for passes in filters)",
        "any(passes(record.text) for passes in (*filters, len))",
    ),
    Fault("rising shares", "(-pair[0], pair[1].text_score)", "(pair[0], pair[1].text_score)"),
    Fault("shares at half", "shares = [unsafe_share(record, cut) for", "shares = [unsafe_share(record) for"),
    Fault("products for cosines", "directions = F.normalize(embeddings, dim=1)", "directions = embeddings"),
    Fault(
        "the mean of those that stay", "(cosines[number, kept] <= most).all()", "(cosines[number, kept].mean() <= most)"
    ),
    Fault("apart from those that went, too", "cosines[number, kept] <= most", "cosines[number, :number] <= most"),
    Fault("nearer ones stay", "cosines[number, kept] <= most", "cosines[number, kept] >= most"),
    Fault("the least unsafe word goes", "best = max(shares)", "best = min(shares)"),
    Fault(
        "a prompt that is safe is cut", '    if unsafe(" ".join(words)) < least:\n        return " ".join(words)\n', ""
    ),
    Fault(
        "one round",
        "        words = shorter[shares.index(best)]\n",
        "        words = shorter[shares.index(best)]\n        break\n",
    ),
    Fault("the first word goes", "words = shorter[shares.index(best)]", "words = shorter[0]"),
    Fault("safe prompts count", "if unsafe_share(record, cut) >= min_unsafe]", "if unsafe_share(record, cut) >= 0]"),
    Fault("every category is all", "other.category == record.category]", "other.category]"),
)
