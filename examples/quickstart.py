"""From a named data set to recommendations, an evaluation and a saved recommender."""

# --8<-- [start:quickstart]
import palate

data = palate.Dataset.load("movielens-100k")  # or .read("ratings.csv", items="movies.parquet")
parts = data.split("temporal", valid=0.1, test=0.1)
rec = palate.Recommender.train(parts.train, model="neumf", valid=parts.valid, seed=7)
print(rec.evaluate(parts.test))  # ndcg@10, recall@10, ... with confidence intervals
print(rec.recommend(users=["196"], k=10))  # a frame: user_id, item_id, score, rank, route
print(rec.recommend(history=["50", "181"], k=10))  # a new user, known by two items
print(rec.explain(user="196", item="50").reasons())  # contributions that add up to the score
rec.save("runs/neumf")
# --8<-- [end:quickstart]
