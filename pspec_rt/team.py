"""Who drafts for a Generator: one drafter, or several of which a bandit picks one for every turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .bandit import Bandit
from .drafters.base import Drafter
from .drafters.ngram import NgramDrafter
from .drafters.registry import checkpoint_of, find_drafter
from .engine import Engine, resolve_tree
from .errors import ConfigError, PspecError
from .models.target import Target
from .result import Stats
from .tree import TreeSpec

log = logging.getLogger("pspec_rt")

Spec = str | Path | Drafter | None  # what `find_drafter` takes
AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """What one drafter has done for a Generator so far: the sequences it served, and their statistics added up."""

    name: str
    requests: int
    stats: Stats

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second of decoding."""
        return self.stats.tokens_per_s


@dataclass
class Member:
    """A drafter (None: plain decoding) with its tree, its engine once it was needed, and what it has done."""

    name: str
    drafter: Drafter | None
    tree: TreeSpec | None
    engine: Engine | None = None
    requests: int = 0
    served: Stats = field(default_factory=Stats)
    left: bool = False  # its engine could not be made


class Team:
    """The drafters of a Generator, an engine each.

    Speed depends on how many sequences are decoded together, and so may the best drafter: every number of slots has a
    bandit of its own.

    Args:
        engine_options: what `Engine` takes besides drafter, tree and max_batch.
    """

    def __init__(self, target: Target, members: Sequence[Member], **engine_options: Any) -> None:
        self.target, self.members, self._options = target, list(members), engine_options
        self._bandits: dict[int, Bandit] = {}

    def pick(self, slots: int) -> Member:
        """Who drafts next for `slots` sequences at a time; the same as before as long as nothing is noted."""
        left = [i for i, member in enumerate(self.members) if member.left]
        return self.members[self._bandit(slots).choose(without=left)]

    def start_turn(self, slots: int) -> tuple[Member, Engine]:
        """Who drafts next, with its engine.

        Once somebody has served, a member whose engine cannot be made is left out from then on, with a warning, and the
        next one is picked: what others have done is not lost. Raises what making an engine raises before that, and
        when nobody else is left.
        """
        while True:
            member = self.pick(slots)
            try:
                return member, self.engine(member, slots)
            except (PspecError, torch.OutOfMemoryError) as error:
                served = any(other.requests for other in self.members)
                if not served or all(other.left for other in self.members if other is not member):
                    raise
                log.warning("drafter %s is left out from now on: %s", member.name, str(error).partition("\n")[0])
                member.left = True

    def engine(self, member: Member, slots: int) -> Engine:
        """A member's engine with that many slots, all of them free.

        A new one is made when that number changes, or while an unfinished stream holds slots of the present one.
        """
        engine = member.engine
        if engine is None or engine.max_batch != slots or len(engine.free_slots) < slots:
            engine = member.engine = None  # free the old caches first, unless a stream still uses them
            engine = Engine(self.target, member.drafter, max_batch=slots, tree=member.tree, **self._options)
            member.engine = engine
        return engine

    def note(self, member: Member, slots: int, stats: Stats) -> None:
        """A sequence that `member` served is done, or was left."""
        stats.drafter = member.name
        member.requests += 1
        member.served.add(stats)
        self._bandit(slots).observe(self.members.index(member), stats.new_tokens, stats.decode_s)

    def choices(self) -> list[Choice]:
        """What everybody has done so far, in the order they were given."""
        return [Choice(member.name, member.requests, member.served.copy()) for member in self.members]

    def _bandit(self, slots: int) -> Bandit:
        return self._bandits.setdefault(slots, Bandit(len(self.members)))


def find_members(
    target: Target,
    drafter: Spec,
    drafters: Sequence[Spec] | None,
    dtype: str | torch.dtype | None,
    k: int | None,
    tree: TreeSpec | str | None,
) -> list[Member]:
    """Members for what a Generator was asked for, loaded, and checked as far as that goes without an engine.

    `k` and `tree` shape the drafts of everybody who drafts. One drafter under two names ("auto" and what it stands for)
    is one member. Raises ConfigError if the options do not go together, and what `find_drafter` raises.
    """
    asked = _asked(drafter, drafters)
    found = [find_drafter(spec, target, dtype) for spec in asked]
    once = _once(asked, found, target) if len(asked) > 1 else [0]
    specs, found = [asked[i] for i in once], [found[i] for i in once]
    if not any(found):
        resolve_tree(None, k, tree)  # refuses k and tree, which would do nothing
    trees = [None if one is None else resolve_tree(one, k, tree) for one in found]
    return [Member(*parts) for parts in zip(_names(specs, found), found, trees, strict=True)]


def _asked(drafter: Spec, drafters: Sequence[Spec] | None) -> list[Spec]:
    if drafters is None:
        return [drafter]
    if drafter != AUTO:
        raise ConfigError("drafter and drafters were both given: name one drafter, or a list of them")
    if isinstance(drafters, (str, Path, Drafter)) or not drafters:
        raise ConfigError(f"drafters={drafters!r}: expected a list of drafters, one or more")
    given = ["none" if spec is None else spec if isinstance(spec, Drafter) else str(spec) for spec in drafters]
    if twice := [spec for i, spec in enumerate(given) if spec in given[:i]]:
        raise ConfigError(f"drafters: {twice[0]} was given twice")
    return list(drafters)


def _once(specs: Sequence[Spec], found: Sequence[Drafter | None], target: Target) -> list[int]:
    """Places of the drafters, the first place of each that was named in several ways."""
    first: dict[object, int] = {}
    for i, (spec, one) in enumerate(zip(specs, found, strict=True)):
        key: object = one
        if isinstance(one, NgramDrafter):
            key = (type(one), one.max_ngram, one.min_ngram)
        elif one is not None and isinstance(spec, (str, Path)):
            key = checkpoint_of(spec, target)
        if first.setdefault(key, i) != i:
            log.info("drafters: %s and %s are the same: one of them is used", specs[first[key]], spec)
    return list(first.values())


def _names(specs: Sequence[Spec], found: Sequence[Drafter | None]) -> list[str]:
    """Kinds, and where two are of one kind, what they were given as or their place."""
    kinds = ["none" if one is None else one.kind for one in found]
    labels = [str(i) if isinstance(spec, Drafter) else str(spec) for i, spec in enumerate(specs, start=1)]
    return [kind if kinds.count(kind) == 1 else f"{kind} ({label})" for kind, label in zip(kinds, labels, strict=True)]
