"""Detect mobile objects in an image or in all images below a folder.

python demo.py --load_ckpt ckpts/moduv_final.pth --vis_conf_thrd 0.5 --input IMAGE_OR_FOLDER --out out/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moduv.cli import with_exit_codes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-l", "--load_ckpt", type=Path, required=True, help="detector weights")
    parser.add_argument("--input", type=Path, required=True, help="an image or a folder of images")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the pictures")
    parser.add_argument("--vis_conf_thrd", type=float, default=0.5, help="draw scores above this")
    options = parser.parse_args()

    from moduv.rounds.demo import Demo, run_demo

    demo = Demo(threshold=options.vis_conf_thrd)
    with_exit_codes(lambda: run_demo(options.load_ckpt, options.input, options.out, demo))


if __name__ == "__main__":
    main()
