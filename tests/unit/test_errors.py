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


def test_text_shows_twenty_problems_and_counts_all_by_kind() -> None:
    problems = [errors.Problem(what=f"has {n} tokens: too many", where=f"line {n}") for n in range(3000)]
    error = errors.InvalidDataset([*problems, errors.Problem(what="is empty")], subject="data.jsonl")
    lines = str(error).splitlines()
    assert (lines[0], len(lines)) == ("data.jsonl: 3,001 problems", 22)
    assert lines[-1] == "  … and 2,981 more; all by kind: 3,000 × has N tokens; 1 × is empty"
    assert len(error.problems) == 3001


def test_counts_of_kinds_include_problems_that_the_error_does_not_hold() -> None:
    error = errors.InvalidDataset(errors.Problem(what="is empty"), subject="a.csv", kinds={"is empty": 7, "is long": 2})
    assert str(error).splitlines() == [
        "a.csv: 9 problems",
        "  is empty",
        "  … and 8 more; all by kind: 7 × is empty; 2 × is long",
    ]


def test_not_found_offers_similar_names() -> None:
    error = errors.NotFound("preset", "medcal", ["legal", "medical", "code"])
    assert error.near[0] == "medical"
    assert "did you mean 'medical'" in str(error)
