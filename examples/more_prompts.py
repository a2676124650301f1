"""Prompts of two kinds that instruction collections lack: translation (from templates) and code to complete.

    python examples/more_prompts.py --translation 700 --code 1500 --out more_prompts.jsonl

Translation prompts ask for the English of German sentences put together from phrases. Code prompts are signatures and
docstrings of functions of this Python installation: its standard library, and packages named with --package.
The rows are what `pspec-rt distill` reads: id, source, licence, kind, prompt.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

WHO = """Der Minister|Die Regierung|Das Unternehmen|Die Polizei|Der Trainer|Die Europäische Union|Der Präsident
Das Gericht|Die Stadt München|Der Sprecher der Feuerwehr|Die Bundeskanzlerin|Der Deutsche Wetterdienst
Die Opposition|Das Parlament|Ein Zeuge|Eine junge Frau aus Leipzig|Der Verein|Die Staatsanwaltschaft
Der Bürgermeister|Die Universität|Ein Forscher|Die Mannschaft|Der Hersteller|Die Gewerkschaft|Das Museum
Der Vorstand|Die Behörde|Der Autor|Die Schauspielerin"""
WHEN = """am Montag|am Dienstagabend|in der vergangenen Woche|vor zwei Jahren|im Jahr 2012|am frühen Morgen|gestern
nach langen Verhandlungen|zum ersten Mal|kurz vor Weihnachten|im letzten Sommer|am 3. Oktober|schon im Mai
nach dem Spiel|trotz der Kritik|wegen des schlechten Wetters|mit großer Mehrheit|ohne Angabe von Gründen
während der Sitzung"""
WHERE = """in Berlin|in der Nähe von Hamburg|auf einer Pressekonferenz|in Brüssel|vor dem Rathaus
im Norden des Landes|auf der Autobahn 7|in einem Interview|bei den Olympischen Spielen|in den Vereinigten Staaten
am Flughafen|an der Grenze|"""
DID = """einen neuen Plan vorgestellt|die Entscheidung verteidigt|drei Verdächtige festgenommen
den Vertrag unterschrieben|mehr als 200 Millionen Euro investiert|vor den Folgen gewarnt|das Ergebnis bestätigt
die Preise um fünf Prozent erhöht|ein wichtiges Spiel gewonnen|den Rücktritt angekündigt
die Öffentlichkeit um Hilfe gebeten|ein Buch über Afrika geschrieben|die Arbeiten an der Brücke beendet
den Antrag abgelehnt|die Verletzten in ein Krankenhaus gebracht|neue Regeln beschlossen
über die Zukunft der Schule gesprochen|alle Vorwürfe zurückgewiesen|den Preis für die beste Idee bekommen
lange geschwiegen|mit dem Bau eines Hotels begonnen|eine Ausstellung über alte Musik eröffnet
auf die Gefahren des Klimawandels hingewiesen"""
SAID = """Wir müssen jetzt schnell handeln|Das war ein schwieriger Tag für uns|Niemand wurde verletzt
Es gibt noch keine Lösung|Wir sind mit dem Ergebnis sehr zufrieden|Die Kosten sind höher als erwartet
Das wird nicht noch einmal passieren|Ich habe nie daran gezweifelt|Die Menschen brauchen Arbeit und Wohnungen
Der Zug hatte mehr als zwei Stunden Verspätung|Viele Kunden bestellen ihre Bücher im Internet
Die Temperaturen steigen bis zum Wochenende auf 30 Grad"""
THAT = """dass die Zahl der Arbeitslosen weiter sinkt|dass der Unfall hätte verhindert werden können
dass das Geld nicht ausreicht|dass die neue Straße im Herbst fertig wird|dass viele Kinder zu wenig schlafen
dass es keine Beweise gibt|dass die Bank ihre Kunden falsch beraten hat|dass der Film im Ausland erfolgreich war
dass Wasser bald knapp wird"""
ASK_TRANSLATION = (
    "Translate German to English: {}",
    "Translate this sentence from German to English: {}",
    "Translate the following German text into English.\n\n{}",
    "What does this mean in English? {}",
)
ASK_CODE = (
    "Complete the code I provided.\n\n{}",
    "Complete the following Python function.\n\n{}",
    "Write the body of this function:\n\n```python\n{}```",
    "Implement this Python function.\n{}",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--translation", type=int, default=700, metavar="N")
    parser.add_argument("--code", type=int, default=1500, metavar="N")
    parser.add_argument("--package", action="append", default=[], metavar="NAME", help="installed; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    rows = [*translations(args.translation, draw), *completions(args.code, args.package, draw)]
    with args.out.open("w") as file:
        for number, row in enumerate(rows):
            file.write(json.dumps({"id": f"more-{number:05d}", **row}) + "\n")
    print(f"{len(rows)} prompts in {args.out}")


def translations(count: int, draw: random.Random) -> Iterator[dict[str, str]]:
    made: set[str] = set()
    while len(made) < count:
        text = " ".join(sentence(draw) for _ in range(draw.choice((1, 1, 1, 2, 3))))
        if text not in made:
            made.add(text)
            yield row("translation", "templates", "CC0", draw.choice(ASK_TRANSLATION).format(text))


def sentence(draw: random.Random) -> str:
    """A German sentence; the verb stands second, whatever comes first."""

    def one(phrases: str) -> str:
        return draw.choice(phrases.replace("\n", "|").split("|"))

    def small(text: str) -> str:
        return text[0].lower() + text[1:]

    who, when, where, did = one(WHO), one(WHEN), one(WHERE), one(DID)
    plain = (
        f"{who} hat {when} {where} {did}.",
        f"{when[0].upper()}{when[1:]} hat {small(who)} {where} {did}.",
        f"{who} erklärte {when} {where}, {one(THAT)}.",
        f"„{one(SAID)}“, sagte {small(who)} {when}.",
        f"{who} glaubt nicht, {one(THAT)}, und hat {when} {did}.",
    )
    return " ".join(draw.choice(plain).split()).replace(" ,", ",")


def completions(count: int, packages: list[str], draw: random.Random) -> Iterator[dict[str, str]]:
    found = sorted({stub for name in ["", *packages] for path in sources(name) for stub in stubs(path)})
    for stub in draw.sample(found, min(count, len(found))):
        licence = "of the package it was taken from (standard library: PSF)"
        yield row("code", "installed_functions", licence, draw.choice(ASK_CODE).format(stub))


def sources(package: str) -> list[Path]:
    """Files of an installed package; "": of the standard library."""
    if not package:
        return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # of the package that it is a part of
        spec = None
    if spec is None or spec.origin is None or not spec.has_location:
        raise SystemExit(f"--package {package}: no package of that name is installed")
    return sorted(Path(spec.origin).parent.rglob("*.py"))


def stubs(path: Path) -> Iterator[str]:
    """Signatures with docstrings of the plain functions of a file."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return
    lines = text.splitlines()
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or node.name.startswith("_"):
            continue
        doc = ast.get_docstring(node)
        if doc and 40 <= len(doc) <= 900 and len(node.body) > 1:
            yield "\n".join(lines[node.lineno - 1 : node.body[0].end_lineno]) + "\n"


def row(kind: str, source: str, licence: str, prompt: str) -> dict[str, str]:
    return {"source": source, "licence": licence, "kind": kind, "prompt": prompt}


if __name__ == "__main__":
    main()
