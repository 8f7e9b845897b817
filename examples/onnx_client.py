"""Recommend from an export with onnxruntime and numpy alone: python onnx_client.py FOLDER USER_ID [K]

FOLDER is what `palate export RUN --onnx FOLDER` wrote. Prints item ids and scores, best first.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Client:
    def __init__(self, folder: str) -> None:
        self.session = onnxruntime.InferenceSession(f"{folder}/scorer.onnx", providers=["CPUExecutionProvider"])
        self.users, self.items = (json.loads(Path(folder, f"{n}.json").read_text("utf-8")) for n in ("users", "items"))
        self.offsets, self.seen = (np.load(f"{folder}/seen_{n}.npy", allow_pickle=False) for n in ("offsets", "items"))
        self.user_index, self.item_index = ({id_: i for i, id_ in enumerate(ids)} for ids in (self.users, self.items))

    def recommend(self, user: str | int, history: tuple[str | int, ...] = (), k: int = 10) -> list[tuple]:
        """The k best items that the user has not seen. `history`: items chosen since, or those of a new user."""
        index = self.user_index.get(user, -1)
        old = self.seen[self.offsets[index] : self.offsets[index + 1]] if index >= 0 else self.seen[:0]
        items = np.concatenate([old, [self.item_index[item] for item in history]]).astype(np.int64)
        inputs = {"user": np.array([index]), "history": items[None] if len(items) else np.full((1, 1), -1)}
        [[scores]] = self.session.run(None, {read.name: inputs[read.name] for read in self.session.get_inputs()})
        scores[items] = -np.inf
        best = [i for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > -np.inf]
        return [(self.items[i], float(scores[i])) for i in best]


if __name__ == "__main__":
    client = Client(sys.argv[1])
    user = sys.argv[2] if isinstance(client.users[0], str) else int(sys.argv[2])
    for item, score in client.recommend(user, k=int(sys.argv[3]) if len(sys.argv) > 3 else 10):
        print(f"{item}\t{score:.4f}")
