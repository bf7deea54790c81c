"""Faults of ReGuide."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("near and far swapped", "((True, near), (False, far))", "((False, near), (True, far))"),
    Fault("more names than asked for", "near=of))[:count]", "near=of))"),
    Fault("asked for none", "in ((True, near), (False, far)) if count]", "in ((True, near), (False, far))]"),
    Fault("no rejected class", "(*classes, *suggested, REJECTED))", "(*classes, *suggested))"),
    Fault("suggestions are not judged", "(*classes, *suggested, REJECTED))", "(*classes, REJECTED))"),
    Fault("suggestions are not told", "._replace(suggested=tuple(suggested))", ""),
    Fault("the rejected class may be suggested", '(*classes, REJECTED, "")', '(*classes, "")'),
    Fault("repetitions stay", "        seen.add(_plain(name))\n", ""),
    Fault(
        "any class in other words will do",
        "if not any(same(name, of) for of in classes):",
        "if not all(same(name, of) for of in classes):",
    ),
    Fault(
        "asked the wrong way round", "any(same(name, of) for of in classes)", "any(same(of, name) for of in classes)"
    ),
    Fault("spelling counts", 'return re.sub(r"[\\s_-]+", " ", name).strip().lower()', "return name"),
    Fault(
        "shares of the classes alone",
        "total = sum(confidences.values())",
        "total = sum(confidences.get(name, 0.0) for name in classes)",
    ),
    Fault("any name for a label", "label = max(classes, key", "label = max(confidences or classes, key"),
    Fault("certain without confidences", "/ total if total > 0 else 0.0", "/ total if total > 0 else 1.0"),
    Fault("one line alone", "re.IGNORECASE | re.DOTALL", "re.IGNORECASE"),
    Fault("upper case alone", "re.IGNORECASE | re.DOTALL", "re.DOTALL"),
    Fault("confidences beyond their range", "return min(max(number, 0.0), 100.0) if", "return number if"),
    Fault("no number is 100", "        return 0.0\n    return min", "        return 100.0\n    return min"),
    Fault("lines do not divide", 're.split(r"[,\\n;]", answer)', 're.split(r"[,;]", answer)'),
    Fault("far things look alike", 'something close to it" if near else', 'something close to it" if not near else'),
)
