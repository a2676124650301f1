"""The command line: what it prints where, its exit codes, and that errors are one line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt import __version__
from pspec_rt.cli import COMMANDS, main
from pspec_rt.cli.terminal import DraftColours
from pspec_rt.engine import Engine
from pspec_rt.result import GenerationOutput, Stats, StreamChunk
from pspec_rt.text import TextStream
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def target() -> str:
    return str(tiny_checkpoint())


def generate(target: str, *options: str) -> int:
    return main(["generate", "--target", target, "--max-new-tokens", "8", *options])


def test_generate_prints_text_on_stdout_and_the_rest_on_stderr(target: str, capsys: Captured) -> None:
    assert generate(target, "--prompt", "hello there", "--json") == 0
    text = json.loads(capsys.readouterr().out)["text"]
    assert generate(target, "--prompt", "hello there") == 0
    captured = capsys.readouterr()
    assert captured.out == text + "\n"
    assert "drafter: ngram; tree: chain(7)" in captured.err and "tokens per round" in captured.err
    assert generate(target, "--prompt", "hello there", "--quiet", "--drafter", "none") == 0
    assert capsys.readouterr() == (text + "\n", "")


def test_int8_weights_are_an_option_of_their_own(target: str, capsys: Captured) -> None:
    options = ("--prompt", "hello there", "--json", "--dtype", "int8", "--ignore-eos")
    answers = []
    for more in (("--drafter", "none"), ("--drafter", target, "--drafter-dtype", "int8a8", "--k", "2")):
        assert generate(target, *options, *more) == 0
        answers.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert answers[0] == answers[1]


def test_json_is_one_object_and_nothing_else(target: str, capsys: Captured) -> None:
    options = ("--prompt", "hello", "--json", "--temperature", "1", "--ignore-eos")
    assert generate(target, *options, "--seed", "5") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.count("\n") == 1
    answer = json.loads(captured.out)
    assert set(answer) == {"text", "token_ids", "finish_reason", "seed", "stats", "drafter", "tree"}
    assert len(answer["token_ids"]) == 8 == answer["stats"]["new_tokens"]
    assert (answer["finish_reason"], answer["seed"], answer["drafter"], answer["tree"]) == (
        "length",
        5,
        "ngram",
        "chain(7)",
    )
    assert generate(target, *options, "--seed", "5", "--drafter", "none") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["token_ids"] == answer["token_ids"]
    assert plain["drafter"] is None and plain["tree"] is None


def test_several_samples(target: str, capsys: Captured) -> None:
    options = ("--prompt", "hello", "--temperature", "1", "--seed", "5", "--n", "2", "--ignore-eos")
    assert generate(target, *options, "--json") == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert len(samples) == 2 and samples[0]["token_ids"] != samples[1]["token_ids"]
    assert generate(target, *options) == 0
    out = capsys.readouterr().out
    assert "--- sample 2 of 2 ---" in out and all(sample["text"] in out for sample in samples)


def test_prompt_from_stdin_and_chat(target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello there"))
    assert generate(target, "--prompt", "-", "--json") == 0
    text = json.loads(capsys.readouterr().out)
    assert generate(target, "--prompt", "hello there", "--json") == 0
    same = json.loads(capsys.readouterr().out)
    assert text["token_ids"] == same["token_ids"]
    assert generate(target, "--prompt", "hello there", "--json", "--chat") == 0
    chat = json.loads(capsys.readouterr().out)
    assert chat["stats"]["prompt_tokens"] > text["stats"]["prompt_tokens"]


def test_stop_strings_k_and_tree(target: str, capsys: Captured) -> None:
    options = ("--prompt", "hello there", "--json", "--ignore-eos", "--tree", "chain", "--k", "3")
    assert generate(target, *options) == 0
    whole = json.loads(capsys.readouterr().out)
    stop = whole["text"][2:4]
    assert generate(target, *options, "--stop", "never seen", "--stop", stop) == 0
    cut = json.loads(capsys.readouterr().out)
    assert cut["tree"] == "chain(3)" and cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]


def test_several_drafters(target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("--drafter", "none", "--drafter", "ngram", "--ignore-eos")
    assert generate(target, "--prompt", "hello there", "--json", *both) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["drafter"], answer["tree"], answer["stats"]["drafter"]) == (
        [None, "ngram"],
        [None, "chain(7)"],
        "none",
    )
    assert generate(target, "--prompt", "hello there", "--ignore-eos", "--drafter", "none") == 0
    captured = capsys.readouterr()
    assert captured.out == answer["text"] + "\n" and "tokens/s, drafter none\n" in captured.err
    assert chat(target, "hello\nhello\n", monkeypatch, *both) == 0
    said = capsys.readouterr().err
    assert "drafter: none (plain decoding)\ndrafter: ngram; tree: chain(7)\n" in said
    assert said.index("tokens/s, drafter none") < said.index("tokens/s, drafter ngram")


def test_loop(target: str, capsys: Captured) -> None:
    assert generate(target, "--prompt", "hello there", "--json", "--loop", "eager") == 0
    assert json.loads(capsys.readouterr().out)["stats"]["loop"] == "eager: asked for"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "/no/such/model"], "/no/such/model"),
        (["--drafter", "/no/such/drafter"], "/no/such/drafter"),
        (["--tree", "shrub"], "unknown tree 'shrub'"),
        (["--k", "99"], "k=99"),
        (["--loop", "fast"], "loop='fast': expected one of auto, eager"),
        (["--drafter", "none", "--k", "3"], "need a drafter"),
        (["--drafter", "ngram", "--drafter", "ngram"], "ngram was given twice"),
        (["--temperature", "-1"], "temperature=-1"),
        (["--top-p", "0"], "top_p=0"),
        (["--n", "0"], "n=0"),
        (["--dtype", "int4"], "int4"),
        (["--device", "toaster"], "toaster"),
        (["--max-new-tokens", "100000"], "max_new_tokens=100000"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(target: str, options: list[str], message: str, capsys: Captured) -> None:
    assert generate(target, "--prompt", "hello", "--quiet", *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_a_generation_config_we_do_not_implement(tmp_path: Path, capsys: Captured) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "generation_config.json", repetition_penalty=1.1)
    assert generate(str(folder), "--prompt", "hello", "--quiet") == 2
    assert "repetition_penalty" in capsys.readouterr().err
    assert generate(str(folder), "--prompt", "hello", "--quiet", "--ignore-generation-config") == 0


@pytest.mark.parametrize("argv", [[], ["generat"], ["generate"], ["generate", "--prompt", "x", "--k", "many"]])
def test_arguments_argparse_refuses(argv: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2 and "usage: pspec-rt" in capsys.readouterr().err


def test_version_and_help(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and __version__ in capsys.readouterr().out
    for command in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0 and f"usage: pspec-rt {command}" in capsys.readouterr().out


def interrupt_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the `call`-th step."""
    step, calls = Engine.step, []

    def interrupted(self: Engine) -> object:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)


def test_ctrl_c_ends_generate_with_130(target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(4, monkeypatch)
    assert generate(target, "--prompt", "hello", "--ignore-eos") == 130
    assert "Traceback" not in capsys.readouterr().err


def chat(target: str, lines: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", "--target", target, "--max-new-tokens", "8", "--ignore-eos", *options])


def test_chat_remembers_and_forgets(target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat(target, "hello\n\nhello\n/reset\nhello\n/what\n/exit\nhello\n", monkeypatch) == 0
    captured = capsys.readouterr()
    counts = [int(line.split()[0]) for line in captured.err.splitlines() if " prompt + " in line]
    assert len(counts) == 3 and counts[1] > counts[0] == counts[2]
    assert "unknown command /what" in captured.err


def test_chat_ends_with_its_input_and_obeys_quiet(
    target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(target, "hello\n", monkeypatch, "--quiet", "--system", "Be brief.") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.endswith("\n")


def test_ctrl_c_stops_only_the_answer(target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(3, monkeypatch)
    assert chat(target, "hello\n/reset\nhello\n", monkeypatch) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " prompt + " in line]
    assert len(lines) == 2 and " 8 new tokens" not in lines[0] and " 8 new tokens" in lines[1]


def test_a_conversation_that_grew_too_long_goes_on(
    target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(target, f"{'x' * 600}\nhello\n", monkeypatch) == 0
    captured = capsys.readouterr()
    assert "/reset starts a new conversation" in captured.err and " 8 new tokens" in captured.err


def test_inspect(target: str, capsys: Captured) -> None:
    assert main(["inspect", target, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"] == "LlamaForCausalLM" and facts["layers"] == 3
    assert main(["inspect", target]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out
    assert main(["inspect", "/no/such/folder"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_env(capsys: Captured) -> None:
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["pspec_rt"] == __version__
    assert {"linear", "accept"} <= set(facts["backends"]) and facts["threads"] >= 1
    assert main(["env"]) == 0
    assert f"pspec_rt={__version__}" in capsys.readouterr().out


def test_bench_takes_one_drafter(target: str, capsys: Captured) -> None:
    assert (
        main(["bench", "--target", target, "--questions", "none.jsonl", "--drafter", "ngram", "--drafter", "none"]) == 2
    )
    assert "--drafter ngram --drafter none: this command takes one drafter" in capsys.readouterr().err


def test_convert_refuses_what_is_no_gguf(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "model.gguf"
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    file.write_text("not a model")
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_bad_environment_variable(target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSPEC_BACKEND", "linear:quantum")
    assert generate(target, "--prompt", "hello", "--quiet") == 2
    assert "quantum" in capsys.readouterr().err


def test_accepted_drafts_are_coloured_in_a_terminal(
    target: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    repeating = ["generate", "--target", target, "--prompt", "ab " * 40, "--max-new-tokens", "60", "--ignore-eos"]
    assert main([*repeating, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert main([*repeating, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert answer["stats"]["accepted"] > 0, "the prompt must make n-gram drafts succeed"
    assert "\x1b[32m" in out


class CharDecoder:
    """Token i is the i-th letter of `text`; every second letter appears one token late."""

    def __init__(self, text: str) -> None:
        self._text, self._held = text, ""

    def push(self, ids: list[int]) -> str:
        self._held += "".join(self._text[i] for i in ids)
        if len(self._held) % 2:
            return ""
        return self.flush()

    def flush(self) -> str:
        text, self._held = self._held, ""
        return text


def chunks_of(text: str, accepted: list[bool], sizes: list[int], stop: str) -> Iterator[StreamChunk]:
    """Stream `text`, one token per letter, in rounds of these sizes."""
    stream, shown, start = TextStream(CharDecoder(text), [stop]), 0, 0
    for size in [*sizes, len(text)]:
        ids = list(range(start, min(start + size, len(text))))
        used, stopped = stream.feed(ids)
        last = stopped or start + size >= len(text)
        if last and not stopped:
            stream.finish()
        output = GenerationOutput(stream.text, [], "stop", Stats()) if last else None
        marks = accepted[start : start + used]
        yield StreamChunk(0, 0, stream.text[shown:], ids[:used], marks, output)
        shown, start = len(stream.text), start + size
        if last:
            return


@given(st.data(), st.text("abc", min_size=1, max_size=20), st.text("abc", min_size=1, max_size=3))
def test_coloured_pieces_are_the_text_with_its_marks(data: st.DataObject, text: str, stop: str) -> None:
    accepted = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    sizes = data.draw(st.lists(st.integers(1, 5), max_size=8))
    colours, shown = DraftColours(CharDecoder(text)), []
    for chunk in chunks_of(text, accepted, sizes, stop):
        pieces = list(colours.pieces(chunk))
        assert "".join(piece for piece, _ in pieces) == chunk.text
        shown += [(letter, mark) for piece, mark in pieces for letter in piece]
    late = [accepted[i] for i in range(len(text))]
    for i, (letter, mark) in enumerate(shown):
        assert letter == text[i]
        # A pair of letters comes out with its second token; a lone last one with the flush.
        assert mark == (late[i | 1] if i | 1 < len(text) else False)
