"""The note's figures, one file each."""

FIGURES = {
    "figure1": "Figure 1 a-c of the note (liu): base, reward, what NFT samples and three targets",
    "figure2": "Figure 2 a-c of the note (liu): what Phi-weighted losses sample",
    "order_of_error": "error of field and law against a, with slopes, orders 1 (NFT) to 4",
    "nearest_target": "the target nearest to NFT's law, as a map over two parameters",
    "trained_vs_exact": "every method, trained: draws over the exact law of its optimum",
    "reward_hacking": "online NFT over epochs: hard copy, EMA, anchored; exact and trained",
    "error_budget": "the parts of every trained network's error: bias, learning, sampling",
}
# Figures that show trained networks: all of it, or over exact laws that stand by themselves.
TRAINED_ONLY = {"trained_vs_exact", "error_budget"}
TRAINED_TOO = {"figure1", "figure2"}
ONLINE = {"reward_hacking"}
