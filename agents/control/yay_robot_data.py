"""Recordings that somebody narrates: what was commanded when, and which of it to imitate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ...envs.checks import check_integer
from ..base.offline_data import OfflineDataset

OFFSET = 20  # frames that a command is chosen ahead, at 50 per second


class Segment(NamedTuple):
    """Frames `start` <= t < `end`, in which a command was carried out."""

    start: int
    end: int
    command: str
    is_correction: bool = False


def without_mistakes(segments: Sequence[Segment]) -> list[Segment]:
    """The segments that are not followed by a correction: what precedes one shows a mistake."""
    following = [segment.is_correction for segment in segments[1:]] + [False]
    return [each for each, mistaken in zip(segments, following, strict=True) if not mistaken]


def segment_at(segments: Sequence[Segment], frame: int, offset: int = OFFSET) -> Segment:
    """The segment that is active at `frame` + `offset`; past the last one, that one.

    Args:
        segments: in their order, without gaps.
        frame: not before the first segment.
        offset: so that a command is chosen before it has to begin.
    """
    starts = [segment.start for segment in segments]
    return segments[max(bisect_right(starts, frame + offset) - 1, 0)]


def history_steps(
    steps: NDArray[np.int64], history: int, skip: int, first: NDArray[np.int64] | int = 0
) -> NDArray[np.int64]:
    """Steps t - history x skip, ..., t - skip, t, the oldest first; where an episode has not been
    going on so long, its first step.

    Args:
        steps: t, [n].
        history, skip: frames beside the present one, and steps between two.
        first: step with which the episode of each begins, [n] or one for all.

    Returns:
        [n, history + 1].
    """
    back = skip * np.arange(history, -1, -1)
    return np.maximum(np.asarray(steps)[:, None] - back, np.reshape(first, (-1, 1)))


def first_steps(dataset: OfflineDataset) -> NDArray[np.int64]:
    """The row with which the episode of each row of a data set begins, [N].

    Raises:
        ValueError: the data do not say where episodes end.
    """
    known = [x for x in (dataset.terminations, dataset.truncations) if x is not None]
    if not known:
        raise ValueError(
            "frames of the past need data that say where episodes end (terminations, truncations)"
        )
    begins = np.roll(np.any(known, axis=0), 1)
    begins[0] = True
    return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))


@dataclass(frozen=True, eq=False)
class NarratedDataset(OfflineDataset):
    """Recorded frames, each with the command that should be chosen there as its action.

    Attributes:
        learned: rows to imitate, bool [N]; the others are only seen as the past of these.
    """

    learned: NDArray[np.bool_] | None = None

    @classmethod
    def from_recordings(
        cls,
        recordings: Iterable[tuple[NDArray[Any], Sequence[Segment]]],
        commands: Sequence[str],
        offset: int = OFFSET,
        **arguments: Any,
    ) -> Self:
        """Label every frame; those are learned whose command was not then corrected.

        Args:
            recordings: of each the observations [T, ...], and the segments into which they fall,
                from 0 to T without gaps.
            commands: all commands; an action is an index into it.
            offset: as in `segment_at`.
            arguments: `env`, or the spaces.

        Raises:
            ValueError: segments with gaps, of another length, or with an unknown command.
        """
        check_integer("offset", offset, 0)
        number = {name: index for index, name in enumerate(commands)}
        episodes, learned = [], []
        for which, (observations, segments) in enumerate(recordings):
            check_segments(which, segments, len(observations), number)
            good = set(without_mistakes(segments))
            active = [segment_at(segments, t, offset) for t in range(len(observations))]
            learned += [segment in good for segment in active]
            ends = np.zeros(len(active), dtype=bool)
            ends[-1] = True
            actions = np.array([number[segment.command] for segment in active], dtype=np.int64)
            episodes.append({"observations": observations, "actions": actions, "truncations": ends})
        return cls.from_episodes(episodes, learned=np.array(learned), **arguments)  # type: ignore[return-value]


def check_segments(
    which: int, segments: Sequence[Segment], frames: int, commands: dict[str, int]
) -> None:
    """ValueError unless segments follow each other from frame 0 to the last."""
    ends = [0, *(segment.end for segment in segments)]
    starts = [*(segment.start for segment in segments), frames]
    if not segments or ends != starts or any(each.start >= each.end for each in segments):
        raise ValueError(
            f"recording {which}: segments {[(s.start, s.end) for s in segments]} must follow each "
            f"other from 0 to {frames}, its frames"
        )
    if unknown := sorted({each.command for each in segments} - set(commands)):
        raise ValueError(f"recording {which}: commands {unknown} are none of {sorted(commands)}")
