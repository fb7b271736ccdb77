"""Training by recipe: one loop for all systems.

config      the tables of a recipe          recipes     TOML file -> Recipe, all mistakes at once
starting    the weights a run starts from   candidates  what retrieval finds, found once and kept
data        batches, any step's at once     dev         exact answers to dev questions
optimizers  optimisers and schedules        loop        train, stop, go on
processes   several processes as one        checkpoint  what survives a kill
hooks       what the loop is given beside a model: batches, what is renewed, what is measured
run         a whole recipe, and the record of what decided its outcome
"""
