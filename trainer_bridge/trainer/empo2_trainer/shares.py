"""Which rows each rank computes."""

from empo2_trainer.datums import Sequence


def balanced(sequences: list[Sequence], ranks: int) -> list[list[int]]:
    """Indices of the rows of each rank, in the order of the request.

    The longest row goes first, each to the rank with the fewest tokens (Graham's LPT rule: the
    busiest rank has at most 4/3 of the tokens of the best distribution). With fewer rows than
    ranks some have none.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    lengths = [len(s.tokens) for s in sequences]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = min(range(ranks), key=lambda r: (tokens[r], len(shares[r]), r))
        shares[rank].append(i)
        tokens[rank] += lengths[i]
    return [sorted(share) for share in shares]
