import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.reward_names import canonical, parse, with_components


def test_terms_and_weights():
    assert parse("pickscore + 0.1*aesthetic") == {"pickscore": 1.0, "aesthetic": 0.1}
    assert parse("pickscore+.5*http://h:8000/a-b?c=d") == {
        "pickscore": 1.0,
        "http://h:8000/a-b?c=d": 0.5,
    }
    assert parse("-2e-3 * hpsv2:/my folder/v2.1.pt") == {"hpsv2:/my folder/v2.1.pt": -0.002}


@pytest.mark.parametrize(
    "text", ["0.7*a + 0.3*b", "0.3*b+0.7*a", " .7 * a + 0.3*b", "0.3*b + 0.5*a + 0.2*a"]
)
def test_equal_rewards_have_one_name(text):
    assert canonical(text) == "0.7*a + 0.3*b"


def test_canonical_names():
    assert canonical("a") == canonical("1*a") == canonical(" a ") == "a"
    assert canonical("a + a") == "2*a"
    assert canonical("b + a") == canonical("a + b") == "a + b"
    assert canonical("0.5*a + -1*b") == "-1*b + 0.5*a"
    assert canonical("") == ""
    assert parse(canonical("1e20*a")) == {"a": 1e20}


def test_components_follow_their_sum():
    assert with_components("0.1*b + a") == ["a + 0.1*b", "a", "b"]
    assert with_components("2*a") == ["2*a", "a"]
    assert with_components("a") == ["a"]
    assert with_components("") == []


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "'' in '' is neither NAME nor NUMBER"),
        ("a +", "'' in 'a +' is neither"),
        ("+ a", "'' in '+ a' is neither"),
        ("a + + b", "'' in 'a"),
        ("x*a", "'x*a' in 'x*a' is neither"),
        ("2*3*a", "'2*3*a'"),
        ("2*", "'2*'"),
        ("a*2", "'a*2'"),
        ("0*a", "the weight of 'a' is 0"),
        ("a + -1*a", "the weight of 'a' is 0"),
        ("1e999*a", "the weight of 'a' is inf"),
        ("a\nb", "cannot be printed"),
    ],
)
def test_anything_else_is_refused(text, told):
    with pytest.raises(ValueError) as refusal:
        parse(text)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


NAMES = ["a", "pickscore-tiny", "clip:v1.5/b", "http://h:1/p?q=1", "my.rewards:red"]
WEIGHT = st.floats(-1e30, 1e30).filter(lambda w: abs(w) > 1e-30)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(NAMES), WEIGHT, min_size=1))
def test_a_canonical_name_says_the_same_and_stays(weights):
    text = " + ".join(f"{w:.17g}*{name}".replace("e+", "e") for name, w in weights.items())
    assert parse(canonical(text)) == parse(text) == weights
    assert canonical(canonical(text)) == canonical(text)
