"""Standard output of a command: results only, whatever prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from finch_hub.plugins import command_output

CLI = Path(command_output.__file__).parents[1] / "cli"


def test_diverted_prints_and_results_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    visible = sys.stdout
    with command_output.own():
        print("before")
        command_output.divert()
        command_output.divert()
        print("by a plugin")
        command_output.stream().write("result")
    assert sys.stdout is visible
    assert capsys.readouterr() == ("before\nresult", "by a plugin\n")


def test_broken_pipe_that_is_not_standard_output_is_no_end_of_it() -> None:
    with pytest.raises(ConnectionError, match="of a broker"), command_output.end_if_closed():
        raise BrokenPipeError("of a broker")


def test_nothing_is_diverted_outside_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    command_output.divert()
    print("in a program")
    assert capsys.readouterr().out == "in a program\n"


def test_descriptor_is_diverted_and_put_back() -> None:
    code = (
        "import os, subprocess\n"
        "from finch_hub.plugins import command_output\n"
        "with command_output.own():\n"
        "    print('a')\n"
        "    command_output.divert()\n"
        "    os.write(1, b'plugin'); subprocess.run(['echo', 'program'])\n"
        "    print('b', file=command_output.stream())\n"
        "print('c')\n"
        "command_output.leave()\n"
        "print('late'); os.write(1, b'late')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "a\nb\nc\n"
    assert "plugin" in ran.stderr
    assert "program" in ran.stderr


def test_commands_print_their_results_by_the_functions_that_keep_them_apart() -> None:
    found = []
    for file in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "sys.stdout.write"):
                keywords = {keyword.arg for keyword in node.keywords}
                if not keywords & {"err", "file"}:
                    found.append(f"{file.name}:{node.lineno}")
    assert found == []


def test_command_without_a_standard_output_works() -> None:
    words = f'"{sys.executable}" -m finch_hub plugins show strategy linear'
    ran = subprocess.run(["/bin/sh", "-c", f"{words} >&-"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
