"""Training: `python train_reward_sbert.py` is the same as `rlhf-loop train`, with the same options."""

if __name__ == "__main__":
    import sys

    from rlhf_loop.cli import main

    main(["train", *sys.argv[1:]])
