"""Trains MOFI: supervised by entities, by contrast with texts, or both (multi-task, which is MOFI).

    accelerate launch train.py configs/train_sample.yaml --output_dir runs/sample/mofi --learning_rate 5e-4

The same as `mofi train`; see modeling_mofi/training/run.py.
"""

from modeling_mofi.training.run import main
from modeling_mofi.user_errors import run_command


if __name__ == "__main__":
    run_command(main, extra="train")
