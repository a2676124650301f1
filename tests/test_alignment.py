"""How closely a drafter follows its target: the figures by hand, teacher forcing place by place, the command."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import alignment as command
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.errors import ConfigError
from pspec_rt.generator import Generator
from pspec_rt.measure.alignment import AlignmentConfig, Forced, align, panels_of
from pspec_rt.measure.plot import plot_curves
from pspec_rt.measure.questions import Question
from pspec_rt.measure.tally import Tally, compare
from pspec_rt.measure.writer import Writer
from pspec_rt.models import load_target
from pspec_rt.train.data import Text
from pspec_rt.train.features import Reader
from pspec_rt.train.loaded import trainee_of
from tests.drafter_fixtures import EAGLE, draft_ids, feature_checkpoint, feature_logits
from tests.drafter_formats import medusa, published
from tests.tiny import VOCAB, tiny_checkpoint, tiny_target
from tests.train.setups import batch_of, drafter, target, texts

# -- the figures ---------------------------------------------------------------------------------


def test_a_drafter_that_is_the_target() -> None:
    logits_AV = torch.randn(50, 20)
    best_A = logits_AV.argmax(1)
    for temperature in (0.0, 0.5, 1.0):
        figures = compare(logits_AV, logits_AV, best_A, None, temperature).figures()
        assert figures["kl"] == 0 and figures["top1_agreement"] == figures["covered_tokens"] == 1
        assert figures["coverage"] == pytest.approx(1)
        assert figures["perplexity"] == figures["target_perplexity"] == figures["target_perplexity_all"]
        assert figures["frequency_distance"] == pytest.approx(figures["frequency_distance_target"], abs=1e-6)
        assert (figures["frequency_distance"] == 0) == (temperature == 0), "greedy text is what its best tokens are"


@pytest.mark.parametrize("temperature", [0.0, 0.3, 2.0])
def test_a_drafter_that_knows_nothing(temperature: float) -> None:
    ids_D = torch.arange(0, 40, 2)
    figures = compare(torch.randn(30, 40), torch.zeros(30, 20), torch.randint(40, (30,)), ids_D, temperature).figures()
    assert figures["perplexity"] == pytest.approx(20)
    assert 0 < figures["coverage"] < 1 and figures["kl"] > 0


def logs(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).log()


def test_figures_by_hand() -> None:
    """Two places, four tokens of which 0, 1 and 3 can be drafted; the target wrote 1, then 2."""
    target_AV = logs([0.5, 0.25, 0.125, 0.125], [0.2, 0.2, 0.5, 0.1])
    drafter_AD = logs([0.25, 0.5, 0.25], [0.8, 0.1, 0.1])
    wrote_A, ids_D = torch.tensor([1, 2]), torch.tensor([0, 1, 3])
    figures = compare(target_AV, drafter_AD, wrote_A, ids_D, 1.0).figures()
    first = 4 / 7 * math.log(4 / 7 / 0.25) + 2 / 7 * math.log(2 / 7 / 0.5) + 1 / 7 * math.log(1 / 7 / 0.25)
    second = 0.4 * math.log(0.4 / 0.8) + 0.4 * math.log(0.4 / 0.1) + 0.2 * math.log(0.2 / 0.1)
    expected = {
        "places": 2,
        "kl": (first + second) / 2,
        "coverage": (0.875 + 0.5) / 2,
        "covered_tokens": 0.5,
        "top1_agreement": 0.0,  # 0 against 1; 2, which cannot be drafted, against 0
        "frequency_distance": (0.525 + 0.2 + 0.5 + 0.175) / 2,
        "frequency_distance_target": (0.35 + 0.275 + 0.1875 + 0.1125) / 2,
        "perplexity": 2.0,
        "target_perplexity": 7 / 2,
        "target_perplexity_all": math.sqrt(4 * 2),
    }
    assert figures == pytest.approx(expected)
    greedy = compare(target_AV, drafter_AD, wrote_A, ids_D, 0.0).figures()
    assert greedy == pytest.approx(expected | {"frequency_distance": 0.5, "frequency_distance_target": 0.5})
    assert compare(2 * target_AV, 2 * drafter_AD, wrote_A, ids_D, 2.0).figures() == pytest.approx(expected)
    last = compare(logs([0.1, 0.2, 0.1, 0.6]), logs([0.1, 0.2, 0.7]), torch.tensor([3]), ids_D, 0.0)
    assert last.agreed == 1 and last.drafter_V.tolist() == [0, 0, 0, 1], "the last column is token 3"


def test_tallies_add_up_and_nothing_is_nothing() -> None:
    target_AV, drafter_AV, wrote_A = torch.randn(9, 12), torch.randn(9, 12), torch.randint(12, (9,))
    whole, parts = compare(target_AV, drafter_AV, wrote_A, None, 1.0), Tally(12)
    for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
        parts.add(compare(target_AV[part], drafter_AV[part], wrote_A[part], None, 1.0))
    assert parts.figures() == pytest.approx(whole.figures())
    nothing = Tally(12).figures()
    assert nothing.pop("places") == 0 and set(nothing.values()) == {None}
    uncovered = compare(
        target_AV, drafter_AV[:, :1], torch.ones(9, dtype=torch.int64), torch.tensor([0]), 1.0
    ).figures()
    assert uncovered["perplexity"] is uncovered["target_perplexity"] is None and uncovered["covered_tokens"] == 0


def test_a_perplexity_beyond_numbers_is_left_out() -> None:
    certain_AV = torch.tensor([[0.0, 2000.0]])
    figures = compare(certain_AV, certain_AV.flip(1), torch.tensor([1]), None, 1.0).figures()
    assert figures["perplexity"] is None and figures["target_perplexity"] == 1


# -- teacher forcing -----------------------------------------------------------------------------


@pytest.mark.parametrize("reduced", [None, list(range(0, VOCAB, 3))])
def test_teacher_forcing_against_one_draft_per_place(reduced: list[int] | None, tmp_path: Path) -> None:
    """What the description of the drafter says after every beginning of an answer, one after the other."""
    K, temperature = 3, 0.7
    raw, tensors = feature_checkpoint(tmp_path, EAGLE, k=K, taps=(1, -1), draft_ids=reduced, extras=("anchor_map",))
    text = texts(1)[0]
    seen = Reader(target(), (1, -1), 64).read(text.ids)
    logits_TV = seen.features_TF[:, -64:] @ target().decoder.head_VM.T
    ids_D, sums = draft_ids(tensors), torch.zeros(K, 3, dtype=torch.float64)
    for length in range(text.prompt, len(text.ids)):  # committed when the round starts
        drafts_KD = feature_logits(raw, tensors, target(), seen.ids_T[:length], seen.features_TF[:length], K)
        for depth in range(min(K, len(text.ids) - length)):
            p_V = (logits_TV[length + depth - 1] / temperature).softmax(0)
            q_D = (drafts_KD[depth] / temperature).softmax(0)
            p_D = p_V[ids_D] / p_V[ids_D].sum()
            same = p_V.argmax() == ids_D[q_D.argmax()]
            sums[depth] += torch.stack([(p_D * (p_D / q_D).log()).sum(), p_V[ids_D].sum(), same.float()])
    forced = Forced(trainee_of(load_drafter(tmp_path, target()), target()), target(), len(text.ids))
    tallies = forced.tallies(text, temperature)
    assert [tally.places for tally in tallies] == [text.answer - depth for depth in range(K)]
    got = torch.tensor([[tally.kl, tally.coverage, tally.agreed] for tally in tallies], dtype=torch.float64)
    torch.testing.assert_close(got, sums, rtol=1e-3, atol=1e-4)


def test_a_language_model_that_is_the_target_follows_it() -> None:
    own = trainee_of(load_drafter(tiny_checkpoint(), target()), target())
    (tally,) = Forced(own, target(), 64).tallies(texts(1)[0], 1.0)
    figures = tally.figures()
    assert figures["places"] == texts(1)[0].answer and figures["top1_agreement"] == 1
    assert figures["kl"] < 1e-6 and figures["perplexity"] == pytest.approx(figures["target_perplexity"], rel=1e-4)


def test_an_answer_shorter_than_the_depths(tmp_path: Path) -> None:
    feature_checkpoint(tmp_path, k=4)
    forced = Forced(trainee_of(load_drafter(tmp_path, target()), target()), target(), 16)
    places = [tally.places for tally in forced.tallies(Text("", "", (5, 6, 7, 8, 9), 3), 1.0)]
    assert places == [2, 1, 0, 0]


@pytest.mark.parametrize("family", ["parallelspec-eagle", "parallelspec-medusa", "eagle", "p-eagle", "medusa", "pard"])
def test_a_loaded_drafter_says_what_it_said_in_training(family: str, tmp_path: Path) -> None:
    learnt = drafter(family, k=3, draft_vocab=0 if family == "medusa" else 90).eval()
    learnt.save(tmp_path)
    loaded = trainee_of(load_drafter(tmp_path, target()), target())
    assert loaded.rule.masks == learnt.rule.masks and loaded.taps == learnt.taps
    batch = batch_of(loaded, texts(2))
    with torch.no_grad():
        torch.testing.assert_close(loaded.hidden(batch), learnt.hidden(batch))
    torch.testing.assert_close(loaded.head(), learnt.head())


def test_drafters_that_cannot_be_run_so(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="dflash drafter cannot be run over whole texts: .*parallelspec-eagle.*p-eagle"
    ):
        trainee_of(load_drafter(published("dflash"), target()), target())
    medusa(tmp_path / "heads")
    with pytest.raises(ConfigError, match="heads of their own"):
        trainee_of(load_drafter(tmp_path / "heads", target()), target())
    feature_checkpoint(tmp_path / "eagle")
    int8 = load_target(tiny_checkpoint(), dtype="int8")
    with pytest.raises(ConfigError, match="bf16 or fp32"):
        trainee_of(load_drafter(tmp_path / "eagle", int8, "fp32"), int8)


# -- what the target writes ----------------------------------------------------------------------


def test_answers_are_those_of_the_generator() -> None:
    generator = Generator(tiny_target(), None, max_length=100)
    questions = [
        Question(1, "a", "a", ("hello there", "and hello moon")),
        Question(2, "b", "b", ("x" * 90,)),
        Question(3, "b", "b", ("what is the answer",)),
    ]
    writer = Writer(generator, questions, max_new_tokens=8, seed=5)
    written = writer.write(0.9)
    assert [(text.id, text.kind) for text in written] == [("1", "a"), ("3", "b"), ("1", "a")]
    assert [row["question_id"] for row in writer.skipped] == [2] and "exceed 100" in writer.skipped[0]["reason"]

    said: list[dict[str, str]] = []
    for turn, text in zip(questions[0].turns, (written[0], written[2]), strict=True):
        said.append({"role": "user", "content": turn})
        alone = generator.generate(said, max_new_tokens=8, temperature=0.9, seed=[5])
        assert list(text.ids) == generator.encode(said) + alone.token_ids
        said.append({"role": "assistant", "content": alone.text})


# -- the command ---------------------------------------------------------------------------------

ROWS = [
    {"question_id": 1, "category": "writing", "turns": ["hello there", "and hello moon"]},
    {"question_id": 2, "category": "qa", "turns": ["what is the answer"]},
]


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    """A command on a tiny target with a drafter of 3 depths and 128 tokens."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(json.dumps(row) for row in ROWS))
    feature_checkpoint(tmp_path / "mine", k=3, draft_ids=range(0, VOCAB, 3))
    options = {"--questions": questions, "--drafter": tmp_path / "mine", "--target": tiny_checkpoint()}
    return [*(str(x) for pair in options.items() for x in pair), "--max-new-tokens", "8", "--threads", "1"]


def test_the_command_writes_tables_json_and_plot(
    argv: list[str], tmp_path: Path, threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert command.main([*argv, "--temperatures", "0,1", "--json", str(out)]) == 0
    captured = capsys.readouterr()
    assert "mine (parallelspec-eagle, 128 tokens)" in captured.out and "mt_bench" in captured.out
    report: dict[str, Any] = json.loads(out.read_text())
    assert {"date", "commit", "device", "dtype", "drafter", "draft_vocab", "depths"} <= set(report["meta"])
    keys = [(line["temperature"], line["task"], line["depth"]) for line in report["lines"]]
    assert keys == [(t, task, d) for t in (0, 1) for task in ("mt_bench", "qa", "overall") for d in (1, 2, 3)]
    by_key = dict(zip(keys, report["lines"], strict=True))
    for t in (0, 1):
        parts, whole = [by_key[t, task, 2] for task in ("mt_bench", "qa")], by_key[t, "overall", 2]
        assert whole["places"] == sum(part["places"] for part in parts)
        assert whole["kl"] * whole["places"] == pytest.approx(sum(part["kl"] * part["places"] for part in parts))
    assert by_key[0, "overall", 1]["frequency_distance_target"] == 0, "greedy text is made of the target's best tokens"
    if importlib.util.find_spec("matplotlib") is None:
        assert "matplotlib is not installed" in captured.err
    else:
        assert out.with_suffix(".svg").read_text().count("<svg") == 1


def test_a_report_without_any_place_at_a_depth_is_drawn(argv: list[str], tmp_path: Path, threads: None) -> None:
    pytest.importorskip("matplotlib")
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    config = AlignmentConfig(options["--questions"], options["--drafter"], (1.0,), max_new_tokens=1)
    report = align(config, tiny_target())
    assert [line["places"] for line in report.lines if line["task"] == "overall"] == [3, 0, 0]
    assert plot_curves(panels_of(report), "", tmp_path / "plot.svg")
    command.show(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperatures", "0,warm"], "--temperatures '0,warm'"),
        (["--temperatures", "1,1"], "each once"),
        (["--temperatures", "-1"], "temperature=-1.0"),
        (["--max-new-tokens", "0"], "max_new_tokens=0"),
        (["--drafter", "none"], "drafter none: expected a checkpoint"),
        (["--drafter", "ngram"], "a ngram drafter cannot be run over whole texts"),
        (["--json", "/no/such/folder/out.json"], "there is no folder"),
        (["--limit", "0"], "limit=0"),
    ],
)
def test_bad_input(
    argv: list[str], options: list[str], message: str, threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*argv, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err
