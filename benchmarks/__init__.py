"""What a run of the paper's size takes, with random weights in the published shapes.

python -m benchmarks memory                 # counted, on any machine, without the weights' memory
python -m benchmarks epochs --device cuda   # run: two epochs of the paper's recipe
python -m benchmarks gpu --out gpu.json     # run: all that a card can tell within minutes

And what a recipe's gradient knows, by step:
python -m benchmarks signal menagerie method=grpo
"""
