"""Fine-tuning an encoder on a labelled task, over seeds, with everything chosen on the development set.

`tasks` says what kinds of tasks there are, `examples` reads and checks them, `encoding` makes them into tokens (long
sentences in windows, never cut), `scores` has the metrics, `fit` trains once, `finetune` is the command.
"""
