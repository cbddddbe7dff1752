"""Detect mobile objects in images and videos, with the options of the original's demo.py.

python demo.py --load_ckpt ckpts/moduv_final.pth --vis_conf_thrd 0.5 --input IMAGE_VIDEO_OR_FOLDER --out out/

`moduv demo` does the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moduv.commands.cli import with_exit_codes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("-l", "--load_ckpt", type=Path, required=True, help="detector weights or a round's folder")
    add("--input", type=Path, required=True, help="an image, a video, or a folder of both")
    add("--out", type=Path, default=Path("out"), help="folder of the overlays")
    add("--vis_conf_thrd", type=float, default=0.5, help="draw scores above this")
    add("--batch_size", type=int, default=1, help="frames at once")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--half", action="store_true", help="half precision, on GPUs")
    add("--patience", type=int, default=10, help="frames for which an unseen object is remembered")
    options = vars(parser.parse_args())

    from moduv.commands.demo import demo

    with_exit_codes(lambda: demo(**options))


if __name__ == "__main__":
    main()
