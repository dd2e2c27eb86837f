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


def test_error_keeps_ten_thousand_problems_and_counts_the_others() -> None:
    error = errors.RefusedArtifact((errors.Problem(what=f"has no {n}") for n in range(500_000)), subject="a")
    lines = str(error).splitlines()
    assert (len(error.problems), lines[0]) == (10_000, "a: 500,000 problems")
    kinds = "490,000 × of these and perhaps other kinds; 10,000 × has no N"
    assert lines[-1] == f"  … and 499,980 more; all by kind: {kinds}"


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
    assert errors.NotFound("job", "kip7", ["ab3kip7", "kip7qz5n2mrtd4xy", "other"]).near[0] == "kip7qz5n2mrtd4xy"
    assert errors.NotFound("job", "ki", ["kip7qz5n2mrtd4xy"]).near == ()


def test_many_problems_of_one_text_have_one_line_with_their_places() -> None:
    def rows(*numbers: int, what: str = "is empty") -> list[errors.Problem]:
        return [errors.Problem(where=f"line {number}", what=what, fix="fill it") for number in numbers]

    few = [*rows(1, 2, 3), *rows(4, 5, 6, what="is long")]
    assert errors.list_problems(few) == [str(problem) for problem in few]
    assert errors.list_problems(rows(1, 3, 7, 9)) == ["lines 1, 3, 7, 9: is empty (fill it)"]
    (line,) = errors.list_problems(rows(*range(1, 31)))
    assert line == f"lines {', '.join(map(str, range(1, 21)))} and 10 more: is empty (fill it)"
    files = [errors.Problem(where=f"{name} line 1", what="is empty") for name in "abcd"]
    assert errors.list_problems(files) == ["a line 1, b line 1, c line 1, d line 1: is empty"]
    fields = [errors.Problem(what="is empty")] * 5
    assert len(errors.list_problems(fields)) == 5
    mixed = [*rows(*range(1, 41)), *(errors.Problem(where=f"row {n}", what=f"has {n} fields") for n in range(30))]
    *_, last = errors.list_problems(mixed)
    assert last == "… and 11 more; all by kind: 40 × is empty; 30 × has N fields"


def test_numbers_of_names_are_no_numbers_of_a_kind() -> None:
    problems = [errors.Problem(what=f"is not UTF-8 at character {n}") for n in range(3)]
    assert errors.count_kinds(problems) == {"is not UTF-8 at character N": 3}


def test_known_names_are_listed_if_none_is_similar() -> None:
    near = errors.NotFound("format", "mesages", ["messages", "text"], lists_known=True)
    assert str(near) == "there is no format 'mesages' (did you mean 'messages'?)"
    other = errors.NotFound("format", "xyz", ["text", "messages"], lists_known=True)
    assert str(other) == "there is no format 'xyz' (known: messages, text)"
    assert str(errors.NotFound("format", "xyz", ["text"])) == "there is no format 'xyz'"


def test_long_names_are_shortened_in_messages() -> None:
    assert errors.shorten("x" * 300) == "x" * 300
    assert len(errors.shorten("x" * 301)) == 301
    assert len(str(errors.NotFound("data file", "x" * 10_000))) < 400


def test_text_has_no_secret() -> None:
    cause = "could not reach https://user:correct-horse@h/x"
    for error in (errors.Unavailable(cause), errors.InvalidSpec(cause), errors.NotFound("base", cause)):
        assert "https://***@h/x" in str(error)
        assert "correct-horse" not in repr(error)
    assert repr(errors.Unavailable("no answer")) == "Unavailable('no answer')"


def test_name_that_is_not_found_is_not_offered_itself() -> None:
    """All versions of an adapter may be deleted: its name is known."""
    assert errors.near("birds", ["birds", "birds-2"]) == ("birds-2",)
    assert "did you mean" not in str(errors.NotFound("adapter", "birds", ["birds"]))
