"""The tokenizer by hand, and the encoder: causal, equal for equal captions, and open to further rows."""

import pytest
import torch

from paperweight.errors import InputError
from paperweight.nets.text import TextEncoder, Tokenizer

TOKENIZER = Tokenizer(("a", "red", "circle", "square"), length=6, placeholders={"<v>": 2, "<w>": 1})


def encoder(placeholders: int = 0) -> TextEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextEncoder(words=6, length=6, dim=8, heads=2, placeholders=placeholders)


def test_captions_by_hand():
    assert TOKENIZER(["A red  circle", "", "a <v> <w>"]).tolist() == [
        [2, 3, 4, 1, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [2, 6, 7, 8, 1, 0],
    ]
    assert TOKENIZER([]).shape == (0, 6)
    assert len(TOKENIZER) == 9


def test_positions_and_ends_by_hand():
    captions = ["red a red circle", "square", "<v> red"]
    marked = TOKENIZER.positions(captions, ["red", "<v>"])
    assert marked.int().tolist() == [[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert TOKENIZER.ends(captions).tolist() == [4, 1, 3]
    assert not TOKENIZER.positions(captions, []).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TOKENIZER(["a cirle"]), "'cirle' is not one; did you mean circle"),
        (lambda: TOKENIZER(["xyz"]), "'xyz' is not one; the words are a, red, circle, square, <v>, <w>"),
        (lambda: TOKENIZER(["a a a a a a"]), "at most 5 tokens, 'a a a a a a' has 6; shorten"),
        (lambda: TOKENIZER(["a <v> <v> red"]), "has 6; shorten"),
        (lambda: TOKENIZER("a red circle"), "a sequence of texts, got the text 'a red circle'"),
        (lambda: TOKENIZER.positions(["a"], ["blu"]), "'blu' is not one"),
        (lambda: TOKENIZER.with_words({"red": 1}), "'red' is known already"),
        (lambda: TOKENIZER.with_words({"<u>": 0}), "'<u>' must stand for at least 1 token, got 0"),
        (lambda: Tokenizer(("Red",)), "small letters, without spaces, and each once; got 'Red'"),
        (lambda: Tokenizer(("red", "red")), "each once; got 'red'"),
        (lambda: Tokenizer(("dark red",)), "without spaces"),
        (lambda: Tokenizer(("red",), length=1), "length of a caption must be a whole number of at least 2"),
    ],
)
def test_what_cannot_be_told_in_tokens_is_refused(call, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        call()


def test_words_that_are_added_leave_the_tokenizer_and_old_numbers_alone():
    more = TOKENIZER.with_words({"<u>": 2})
    assert more(["<u> circle"]).tolist() == [[9, 10, 4, 1, 0, 0]]
    assert more(["<v> <w>"]).tolist() == TOKENIZER(["<v> <w>"]).tolist()
    assert "<u>" not in TOKENIZER.placeholders


def test_equal_captions_are_equal_and_a_word_changes_nothing_before_it():
    model = encoder()
    tokens = model(torch.tensor([[2, 3, 4, 1, 0, 0], [2, 3, 4, 1, 0, 0], [2, 3, 5, 1, 0, 0]]))
    assert torch.equal(tokens[0], tokens[1])
    torch.testing.assert_close(tokens[0, :2], tokens[2, :2])
    assert ((tokens[0] - tokens[2])[2:].norm(dim=1) > 1e-4).all()


def test_the_layer_by_hand_in_the_first_token_which_sees_itself_alone():
    model = encoder()
    x = model.table.weight[3] + model.position[0]
    value = torch.nn.functional.linear(model.norm1(x), model.to_qkv.weight[16:], model.to_qkv.bias[16:])
    x = x + model.to_out(value)
    wanted = model.norm(x + model.ff(model.norm2(x)))
    torch.testing.assert_close(model(torch.tensor([[3, 1, 0, 0, 0, 0]]))[0, 0], wanted)


def test_further_rows_take_their_gradient_alone_and_stand_in_for_placeholders():
    model = encoder(placeholders=1).requires_grad_(False)
    numbers = torch.tensor([[6, 4, 1, 0, 0, 0]])
    row = model.table.weight[3:4].clone().requires_grad_()
    torch.testing.assert_close(model(numbers, row), model(torch.tensor([[3, 4, 1, 0, 0, 0]])), rtol=0, atol=0)
    model(numbers, row).square().sum().backward()
    assert row.grad is not None
    assert all(weight.grad is None for weight in model.parameters())
    embedded = model.embedding_table()[numbers]
    assert torch.equal(model.encode(embedded), model(numbers))
    assert model.embedding_table().shape == (7, 8)
    assert model.embedding_table(row)[6].equal(row[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": 0}, "words"),
        ({"length": 0}, "length"),
        ({"dim": 9}, "dim must be a multiple"),
        ({"heads": 0}, "heads"),
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**{"words": 5, "length": 3, "dim": 8, "heads": 2, **wrong})
