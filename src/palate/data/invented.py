"""Names for made-up things: films with titles that tell their topics, people whose age goes with their taste."""

from __future__ import annotations

import numpy as np
import polars as pl

GENRES: tuple[str, ...] = ("action", "animation", "comedy", "crime", "documentary", "drama", "fantasy", "horror")
GENRES += ("musical", "romance", "thriller", "western")
"""Names of the first topics; more are called "topic 13", ..."""

GROUPS = ("student", "parent", "engineer", "artist", "teacher", "retired")

_AGES = (22, 38, 33, 29, 46, 68)
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
_WORDS = 24


def item_table(
    topics: np.ndarray, second_topics: np.ndarray, releases: np.ndarray, n_topics: int, rng: np.random.Generator
) -> pl.DataFrame:
    """`item_id` (the index), `title`, `genres` (main topic first, `|` between), `year`.

    A title is a word of the main topic, a word of no topic, a word of the second topic.
    """
    n_items = len(topics)
    vocabulary = _vocabulary((n_topics + 1) * _WORDS, rng).reshape(n_topics + 1, _WORDS)
    places = rng.integers(_WORDS, size=(3, n_items))
    of = (topics, np.full(n_items, n_topics), second_topics)
    words = [vocabulary[topic, place] for topic, place in zip(of, places, strict=True)]
    names = np.array([topic_name(topic) for topic in range(n_topics)])
    # Items that were there from the beginning got their year before it.
    year = releases.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    age = np.minimum(rng.geometric(0.08, n_items), 60)
    year = np.where(releases > releases.min(), year, year - age)
    frame = pl.DataFrame(
        {
            "item_id": np.arange(n_items, dtype=np.int64),
            **{f"word{k}": pl.Series(word.tolist(), dtype=pl.String) for k, word in enumerate(words)},
            "main": pl.Series(names[topics].tolist(), dtype=pl.String),
            "second": pl.Series(names[second_topics].tolist(), dtype=pl.String),
            "year": year.astype(np.int32),
        }
    )
    both = pl.when(pl.col("main") == pl.col("second")).then("main").otherwise(pl.format("{}|{}", "main", "second"))
    return frame.select(
        "item_id",
        pl.format("{} {} {} ({})", "word0", "word1", "word2", "year").str.to_titlecase().alias("title"),
        both.alias("genres"),
        "year",
    )


def user_table(groups: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """`user_id` (the index), `age` in years, `group`."""
    age = np.clip(np.array(_AGES)[groups] + np.round(6 * rng.standard_normal(len(groups))), 12, 95)
    names = pl.Series(GROUPS)[groups.tolist()]
    return pl.DataFrame({"user_id": np.arange(len(groups)), "age": age.astype(np.int32), "group": names})


def topic_name(topic: int) -> str:
    """What a topic is called in `genres`."""
    return GENRES[topic] if topic < len(GENRES) else f"topic {topic + 1}"


def _vocabulary(size: int, rng: np.random.Generator) -> np.ndarray:
    """Different words of three syllables."""
    count = len(_SYLLABLES)
    numbers = rng.choice(count**3, size, replace=False)
    return np.array(["".join(_SYLLABLES[n // count**k % count] for k in range(3)) for n in numbers.tolist()])
