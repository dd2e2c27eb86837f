"""Layout of packed sequences in the grids that attention computes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finch_hub.engine.data.batches import Batch

# Shortest sequence of a group over its longest: more similar lengths leave fewer cells empty, but make more groups.
_SIMILAR_LENGTH = 0.6


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SequenceGroup:
    """Sequences of similar length, each of which attends to a shared prefix and, causally, to itself.

    A group is computed as one grid of `count` rows and `length` columns. Attention is causal, so no token sees the
    cells behind the end of its sequence, and they need no mask.

    Attributes:
        prefix: places of the shared prefix among the N tokens, empty for none.
        sequences: places of each sequence's tokens among the N tokens.
    """

    prefix: range
    sequences: tuple[range, ...]

    @property
    def count(self) -> int:
        """Number of sequences."""
        return len(self.sequences)

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)

    def tokens(self) -> Tensor:
        """Return the token of each cell, int64 [count, length]; the last token fills cells behind the end."""
        starts = torch.tensor([sequence.start for sequence in self.sequences])
        lasts = torch.tensor([sequence.stop - 1 for sequence in self.sequences])
        return torch.minimum(starts[:, None] + torch.arange(self.length), lasts[:, None])

    def filled(self) -> Tensor:
        """Return whether each cell holds a token of its own, bool [count, length]."""
        return torch.arange(self.length) < torch.tensor([len(sequence) for sequence in self.sequences])[:, None]


class GridLayout:
    """Places of the vectors of single heads in the grids of attention, for all layers of a forward pass.

    A grid's queries are [S * K, G * T, D] and its keys and values [S * K, P + T, D]: S sequences of T tokens after a
    prefix of P, and K heads of keys with G of queries each. Vectors enter and leave the grids by one gather each.

    Attributes:
        queries: int64, the place among [N * H] of each query in the grids.
        keys: int64, the place among [N * K] of each key in the grids.
        empty: int64, the queries behind the end of a sequence.
        query_cells: int64 [N * H], the query of each vector.
        key_cells: int64 [N * K], the key of each vector; a prefix has its keys in its own sequence.
        query_shapes: (S * K, G * T) of each group.
        key_shapes: (S * K, P + T) of each group.
    """

    def __init__(self, groups: Sequence[SequenceGroup], *, heads: int, key_heads: int, device: torch.device) -> None:
        self.groups, self.heads, self.key_heads = tuple(groups), heads, key_heads
        queries_per_key = heads // key_heads
        queries, keys, filled, own = [], [], [], []
        for group in groups:
            cells = group.tokens()[:, None, None, :]
            head = torch.arange(heads).view(1, key_heads, queries_per_key, 1)
            queries.append((cells * heads + head).flatten())
            filled.append(group.filled()[:, None, None, :].expand(-1, key_heads, queries_per_key, -1).flatten())
            prefix = torch.tensor(group.prefix, dtype=torch.int64).expand(group.count, -1)
            seen = torch.cat((prefix, group.tokens()), dim=1)[:, None, :]
            keys.append((seen * key_heads + torch.arange(key_heads)[:, None]).flatten())
            own_keys = torch.cat((torch.zeros_like(prefix, dtype=torch.bool), group.filled()), dim=1)
            own.append(own_keys[:, None, :].expand(-1, key_heads, -1).flatten())
        self.queries, self.query_cells = _index_cells(queries, filled, device)
        self.keys, self.key_cells = _index_cells(keys, own, device)
        self.empty = (~torch.cat(filled)).nonzero()[:, 0].to(device)
        self.query_shapes = [(group.count * key_heads, queries_per_key * group.length) for group in groups]
        self.key_shapes = [(group.count * key_heads, len(group.prefix) + group.length) for group in groups]

    def split(self, vectors: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return views of the groups' parts of vectors [n, D], each in its shape."""
        parts = torch.split(vectors, [count * length for count, length in shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]

    def add_prefix_gradients(self, total: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Add to total [N, K, D] the prefixes' share of the gradients [S * K, P + T, D] of keys or values."""
        for group, gradient in zip(self.groups, gradients, strict=True):
            if group.prefix:
                shares = gradient.view(group.count, self.key_heads, *gradient.shape[1:])[:, :, : len(group.prefix)]
                total[group.prefix.start : group.prefix.stop] += shares.sum(dim=0).transpose(0, 1)
        return total


def group_sequences(batches: Sequence[Batch]) -> list[SequenceGroup]:
    """Divide the sequences of all batches into groups of one prefix and similar length."""
    offset = 0
    groups: list[SequenceGroup] = []
    without_prefix: list[range] = []  # these may be of any batch
    for batch in batches:
        sequences = [range(offset + begin, offset + end) for begin, end in batch.spans]
        if batch.prefix:
            prefix = range(offset, offset + batch.prefix)
            groups += [SequenceGroup(prefix=prefix, sequences=similar) for similar in _divide_by_length(sequences)]
            sequences = [prefix]
        without_prefix += sequences
        offset += len(batch.input_ids)
    return groups + [SequenceGroup(prefix=range(0), sequences=similar) for similar in _divide_by_length(without_prefix)]


def _divide_by_length(sequences: Sequence[range]) -> list[tuple[range, ...]]:
    divisions: list[list[range]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if not divisions or len(sequence) < _SIMILAR_LENGTH * len(divisions[-1][0]):
            divisions.append([])
        divisions[-1].append(sequence)
    return [tuple(division) for division in divisions]


def _index_cells(vectors: list[Tensor], is_own: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the vector of each cell, and for each vector the one cell that is its own."""
    places, cells = torch.cat(vectors), torch.cat(is_own).nonzero()[:, 0]
    cell_of_vector = torch.empty_like(cells)
    cell_of_vector[places[cells]] = cells
    return places.to(device), cell_of_vector.to(device)
