"""What generated images are worth to a classifier: scores on test images, over seeds of classifiers and generators.

Tables of scores of all arms on the same draws are what everything else takes::

    draws = draw_images(images, rng)
    tables = {arm: score_table("accuracy", images, runs, draws) for arm, runs in arms.items()}
    found = [seed_mean(difference(tables[arm], tables["real only"])) for arm in generated]
    decided = decide_means(found, margin=0.02)  # intervals, p; its words: verdicts(decided, "accuracy")
    worth = worth_of(tables["generated"], {5: tables["five a class"], ...}, real=10)
"""
