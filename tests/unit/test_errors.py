import inspect

from finch_hub import errors


def test_tree_in_the_docstring_lists_all_errors() -> None:
    drawn = [line.strip("│├└─ ").split()[0] for line in (errors.__doc__ or "").splitlines() if "──" in line]
    defined = [
        name
        for name, item in inspect.getmembers(errors, inspect.isclass)
        if issubclass(item, errors.FinchError) and item is not errors.FinchError
    ]
    assert sorted(drawn) == sorted(defined)


def test_text_contains_all_problems_with_place_and_fix() -> None:
    error = errors.InvalidDataset(
        [
            errors.Problem(what="is no JSON", where="line 3", fix="quote the keys"),
            errors.Problem(what="is empty", where="line 9"),
        ],
        subject="data.jsonl",
    )
    assert str(error) == "data.jsonl: 2 problems\n  line 3: is no JSON (quote the keys)\n  line 9: is empty"


def test_text_shows_at_most_a_hundred_problems() -> None:
    error = errors.InvalidDataset([errors.Problem(what=f"line {n}") for n in range(3000)], subject="data.jsonl")
    lines = str(error).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("data.jsonl: 3,000 problems", 102, "  … and 2,900 more")
    assert len(error.problems) == 3000


def test_not_found_offers_similar_names() -> None:
    error = errors.NotFound("preset", "medcal", ["legal", "medical", "code"])
    assert error.near[0] == "medical"
    assert "did you mean 'medical'" in str(error)
