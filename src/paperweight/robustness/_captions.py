"""Captions cleaned, made singular, enciphered, scrambled and simplified: what is changed between arms that use text.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821: its code, https://github.com/penfever/vlhub, cleans, enciphers and scrambles so.

Deviations:
    - Words to drop are dropped wherever they stand; in the authors' code only between two others. Words "de" stay,
      where their code drops them and joins the words around.
    - The cipher leaves letters with accents as they are; theirs turns them into others that cannot be turned back.
    - In place of WordNet's lemmatizer, a list of 117,000 words, a few rules make nouns singular.
"""

import re

import torch

__all__ = ["clean_caption", "scramble", "shift_cipher", "simple_caption", "singular"]

_DROPPED = "&<^*>\\|+=[]~`\"@/'©#()"
_SPACES = ":;-_.,!?\n\t\r"
_TABLE = str.maketrans({**dict.fromkeys(_DROPPED, ""), **dict.fromkeys(_SPACES, " ")})
_LINKS = re.compile("https?|href")
_OF_LINKS = frozenset({"www", "com", "flickr"})
_LONGEST = 29

_IRREGULAR = {
    **{f"{stem}men": f"{stem}man" for stem in ("", "wo", "fire", "police", "sports", "fisher", "snow")},
    **{"children": "child", "people": "person", "mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth"},
    **{f"{stem}ves": f"{stem}f" for stem in ("wol", "cal", "hal", "shel", "loa", "lea", "thie", "scar", "hoo", "el")},
    **{f"{stem}ves": f"{stem}fe" for stem in ("kni", "wi", "li")},
    **{f"{stem}s": stem for stem in ("movie", "cookie", "zombie", "brownie", "collie", "genie", "pixie", "hoodie")},
    **{f"{stem}s": stem for stem in ("smoothie", "birdie", "magpie", "rookie", "prairie", "selfie", "calorie")},
    **{
        f"{stem}s": stem
        for stem in ("shoe", "horseshoe", "toe", "canoe", "oboe", "axe", "headache", "cache", "avalanche")
    },
    **{"lens": "lens", "lenses": "lens", "gases": "gas", "buses": "bus", "quizzes": "quiz", "oxen": "ox"},
    **{"series": "series", "species": "species", "canvas": "canvas", "canvases": "canvas", "atlas": "atlas"},
    **{f"{stem}uses": f"{stem}us" for stem in ("octop", "cact", "walr", "vir", "hippopotam", "platyp", "minib")},
}


def clean_caption(text: str) -> str:
    """Clean a caption: small letters, no punctuation, links, numbers, or words of 30 letters and more.

    Hyphens, full stops and the like become spaces, brackets, quotes and other signs vanish, "st" becomes "street".

    Args:
        text: The caption, of one line or several.

    Returns:
        Words between single spaces; cleaning them again changes nothing.

    Raises:
        ValueError: If ``text`` is no text.

    Example:
        >>> clean_caption('"Snow-leopard" (2), 5th St. http://www.flickr.com/')
        'snow leopard 5th street'
    """
    _check_text("text", text)
    words = _LINKS.sub(" ", text.lower().translate(_TABLE)).split()
    kept = (word for word in words if len(word) <= _LONGEST and not word.isnumeric() and word not in _OF_LINKS)
    return " ".join("street" if word == "st" else word for word in kept)


def singular(word: str) -> str:
    """Make an English noun singular, by endings and a short list of exceptions; other words mostly stay.

    A few words come out wrong ("alas" as "ala"), in captions and in class terms alike, so that they still match.

    Args:
        word: A word in small letters.

    Returns:
        The word; making it singular again changes nothing.

    Raises:
        ValueError: If ``word`` is no text.

    Example:
        >>> [singular(word) for word in ("binoculars", "ponies", "foxes", "horses", "glass", "mice", "bus")]
        ['binocular', 'pony', 'fox', 'horse', 'glass', 'mouse', 'bus']
    """
    _check_text("word", word)
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes", "oes")):
        return word[:-2]
    return word[:-1]


def shift_cipher(text: str, k: int) -> str:
    """Replace each of the letters a to z and A to Z by the one that stands ``k`` places on, in a circle.

    Args:
        text: The caption.
        k: Number of places, any whole number; 26 - k turns back what k did.

    Returns:
        Text of the same length; all but these letters stays.

    Raises:
        ValueError: If an argument is of another type.

    Example:
        >>> shift_cipher("A zebra!", 1), shift_cipher(shift_cipher("A zebra!", 1), 25)
        ('B afcsb!', 'A zebra!')
    """
    _check_text("text", text)
    if not isinstance(k, int) or isinstance(k, bool):
        raise ValueError(f"k must be a whole number, got {k!r}")
    small = "abcdefghijklmnopqrstuvwxyz"
    moved = small[k % 26 :] + small[: k % 26]
    return text.translate(str.maketrans(small + small.upper(), moved + moved.upper()))


def scramble(text: str, generator: torch.Generator) -> str:
    """Put the words of a caption into a random order, so that a model sees which there are and no sentence.

    Args:
        text: The caption.
        generator: Draws the order, on the CPU.

    Returns:
        The words between single spaces.

    Raises:
        ValueError: If ``text`` is no text.

    Example:
        >>> sorted(scramble("a dog on a sofa", torch.Generator().manual_seed(0)).split())
        ['a', 'a', 'dog', 'on', 'sofa']
    """
    _check_text("text", text)
    words = text.split()
    return " ".join(words[place] for place in torch.randperm(len(words), generator=generator).tolist())


def simple_caption(name: str) -> str:
    """Describe an image by the name of its class and nothing else.

    Args:
        name: The name.

    Returns:
        A caption.

    Raises:
        ValueError: If ``name`` is empty or no text.

    Example:
        >>> simple_caption("dog")
        'An image of dog'
    """
    _check_text("name", name)
    if not name.strip():
        raise ValueError(f"name must not be empty, got {name!r}")
    return f"An image of {name.strip()}"


def _check_text(argument: str, given: str) -> None:
    if not isinstance(given, str):
        raise ValueError(f"{argument} must be a text, got {given!r}")
