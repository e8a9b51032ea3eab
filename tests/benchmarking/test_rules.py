"""Rules read back to what they say; whatever is no rule is refused at the character where it goes wrong."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescompress.benchmarking.rules import POINTS, UNITS, Rule, parse
from rescompress.errors import RecipeError

NUMBERS = st.floats(0, 1e12, allow_nan=False, allow_subnormal=False)
SPACES = st.sampled_from(["", " ", "  ", "\t"])


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    metric, sense = draw(st.sampled_from(list(UNITS))), draw(st.sampled_from([">", "<"]))
    limit = draw(NUMBERS)
    if draw(st.booleans()):
        return Rule(metric, sense, limit * draw(st.sampled_from([1, -1])), POINTS if metric == "accuracy" else "%")
    return Rule(metric, sense, limit, draw(st.sampled_from(list(UNITS[metric]))))


@given(rules())
def test_what_is_printed_is_read_back(rule: Rule) -> None:
    again = parse(str(rule))
    assert again == rule
    assert math.copysign(1, again.limit) == math.copysign(1, rule.limit)
    assert str(again) == str(rule)
    assert again.relative == rule.relative


@given(rules(), st.lists(SPACES, min_size=4, max_size=4))
def test_spaces_between_the_parts_mean_nothing(rule: Rule, spaces: list[str]) -> None:
    text = str(rule)
    sense = text.index(rule.sense)
    unit = len(text.rstrip(string.ascii_letters + "%/"))
    parts = [text[:sense], rule.sense, text[sense + 1 : unit], text[unit:]]
    assert parse("".join(part + space for part, space in zip(parts, spaces, strict=True))) == rule


@given(st.text(max_size=30) | st.text("p5094sizeaccurcy<>+-%. 12msMB/", max_size=14))
def test_any_text_is_a_rule_or_one_sentence_of_fact(text: str) -> None:
    try:
        rule = parse(text)
    except RecipeError as error:
        refused = error
    else:
        assert math.isfinite(rule.limit)
        assert parse(str(rule)) == rule
        return
    before, said = f"The rule {text!r} can't be read at character ", refused.fact
    assert said.startswith(before)
    assert 1 <= int(said.removeprefix(before).partition(":")[0]) <= len(text) + 1
    assert refused.remedy.endswith((".", "?"))  # "Did you mean …?"
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("text", "bound", "relative", "told"),
    [
        ("p50>+5%", 5.0, True, "+5 %"),
        ("p90 < -3 %", -3.0, True, "-3 %"),
        ("p50>12ms", 12.0, False, "12 ms"),
        ("p99>1.5s", 1500.0, False, "1.5 s"),
        ("first>250us", 0.25, False, "250 us"),
        ("size>10MB", 10_000_000.0, False, "10 MB"),
        ("rss>1.5GiB", 1.5 * 2**30, False, "1.5 GiB"),
        ("throughput<100/s", 100.0, False, "100/s"),
        ("accuracy<-0.5", -0.5, True, "-0.5 points"),
        ("accuracy<-0.5points", -0.5, True, "-0.5 points"),
        ("accuracy<95%", 95.0, False, "95 %"),
    ],
)
def test_limits_have_units(text: str, bound: float, relative: bool, told: str) -> None:
    rule = parse(text)
    assert (rule.bound, rule.relative, rule.told) == (pytest.approx(bound), relative, told)


@pytest.mark.parametrize(
    ("text", "place", "said", "remedy"),
    [
        ("", 1, "that is no metric", "Begin with one of: p50, p90,"),
        ("  >5", 3, "that is no metric", "Begin with one of"),
        ("p5>+5%", 1, "p5 is no metric", "Did you mean 'p95'?"),
        ("P50>+5%", 1, "P50 is no metric", "Did you mean 'p50'?"),
        ("p50", 4, "there is no > or <", "Write p50>LIMIT, as in p50>+5% or p50>12ms."),
        ("p50=5", 4, "there is no > or <", "Write p50>LIMIT"),
        ("p50>=+5%", 5, "there is no finite number", "Write a limit"),
        ("p50>+", 6, "there is no finite number", "Write a limit"),
        ("p50>+nan%", 6, "there is no finite number", "Write a limit"),
        ("p50>1e999ms", 5, "there is no finite number", "Write a limit"),
        ("p50>5", 6, "p50 needs a unit", "Use ns, us, ms, s, or a change with its sign: p50>+5% or p50>12ms."),
        ("p50>5MB", 6, "'MB' is no unit of p50", "Use ns, us, ms, s"),
        ("p50>5%", 6, "'%' is no unit of p50", "or a change with its sign: p50>+5%"),
        ("size>+5MB", 8, "a change needs %", "or without a sign: size>+5% or size>10MB."),
        ("accuracy<-0.5%", 14, "% is no unit of a change of accuracy", "Write points: accuracy<-0.5."),
        ("accuracy<95", 12, "accuracy needs a unit", "Use %, or a change"),
        ("p50>+5% or so", 7, "a change needs %", "Write it with %"),
    ],
)
def test_what_is_no_rule_is_told_with_its_place(text: str, place: int, said: str, remedy: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert caught.value.fact == f"The rule {text!r} can't be read at character {place}: {said}."
    assert remedy in caught.value.remedy


@given(rules(), st.floats(-1e6, 1e6))
def test_a_rule_is_crossed_on_one_side_only(rule: Rule, value: float) -> None:
    assert rule.crossed_by(value) == (value > rule.bound if rule.sense == ">" else value < rule.bound)
    assert not rule.crossed_by(rule.bound)
