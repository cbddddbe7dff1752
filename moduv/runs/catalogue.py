"""Every command by its name: its function, its section of a preset, and a line of help."""

from __future__ import annotations

from moduv.datasets.registry import DATASETS
from moduv.engine.pipeline import Command


def _stage(function: str, section: str | None, help: str, words: str = "") -> Command:
    """A command that continues where it was when it is run again after an interrupt."""
    return Command(function, section, help, words, resumes=True)


def _shared(function: str, section: str, help: str) -> Command:
    """A stage that several processes may share."""
    return Command(function, section, help, resumes=True, shared=True)


COMMANDS = {
    "doctor": Command(
        "moduv.commands.doctor:doctor", None, "check this machine: packages, GPUs, weights"
    ),
    "run": _stage(
        "moduv.runs.run:run_videos", None, "clips in, detector out: every stage", words="sources"
    ),
    "street render": _stage(
        "moduv.street.dataset:render_dataset", "street", "render the built-in street world"
    ),
    "street sequences": _stage(
        "moduv.street.sequences:write_sequences",
        None,
        "its clips with object masks, as DAVIS has them",
    ),
    "frames import": _stage(
        "moduv.datasets.clips:import_folder", "frames_import", "import folders of frames"
    ),
    **{f"prepare {data.name}": data.prepare for data in DATASETS if data.prepare},
    "motion train": _shared(
        "moduv.runs.watch:train_stage1", "motion", "stage 1: train depth, ego-motion, motion mask"
    ),
    "motion predict": _shared(
        "moduv.motion.predict:predict_motion", "motion_predict", "stage 1: write masks and depth"
    ),
    "correspondence train": _shared(
        "moduv.runs.watch_correspondence:train_with_validation",
        "correspondence",
        "learn which pixel is which of another frame",
    ),
    "correspondence list": Command(
        "moduv.correspondence.train:list_frames",
        "correspondence",
        "the frames of a data set as a file list",
    ),
    "labels initial": _stage(
        "moduv.rounds.labelling:label_motion", "initial_labels", "L0 from motion masks and depth"
    ),
    "motion evaluate": Command(
        "moduv.runs.measure:measure_motion", None, "stage 1 against ground truth, street or real"
    ),
    "labels mobile": _shared(
        "moduv.rounds.moving2mobile:mobile_labels",
        "mobile_labels",
        "L1 from the Moving2Mobile round",
    ),
    "labels aggregated": _shared(
        "moduv.rounds.large2small:aggregated_labels", "aggregated_labels", "L2 from both scales"
    ),
    "labels true": Command(
        "moduv.rounds.supervised:true_labels",
        "true_labels",
        "ground truth as a label set, for the upper bound",
    ),
    "round moving2mobile": _shared(
        "moduv.rounds.recipe:train_round", "moving2mobile", "train briefly on L0"
    ),
    "round large": _shared("moduv.rounds.recipe:train_round", "large", "train at full scale on L1"),
    "round small": _shared("moduv.rounds.recipe:train_round", "small", "train on shrunken frames"),
    "round final": _shared("moduv.rounds.recipe:train_round", "final", "train the final detector"),
    **{f"truth {data.name}": data.truth for data in DATASETS if data.truth},
    "detect": _shared(
        "moduv.commands.detect:detect_images",
        "detect",
        "detections in the images of a ground truth",
    ),
    "name": Command(
        "moduv.commands.name:name_detections",
        "naming",
        "say what detected objects are",
        words="detections",
    ),
    "name pretrain": _shared(
        "moduv.naming.training.videomae:pretrain",
        "name_pretrain",
        "single-frame VideoMAE on frames without labels",
    ),
    "name slots": _shared(
        "moduv.naming.training.slots:train_slots",
        "name_slots",
        "slots over a frozen video transformer",
    ),
    "name patches": _stage(
        "moduv.naming.training.patch_clip:train_patches",
        "name_patches",
        "patch-CLIP on images without captions",
    ),
    "name locate": _stage(
        "moduv.naming.locate:locate", "name_locate", "named objects by slots and patch-CLIP alone"
    ),
    "name train": _stage(
        "moduv.commands.name:train_names", "name_training", "train a small encoder on named objects"
    ),
    "evaluate": Command(
        "moduv.runs.measure:evaluate_detections", None, "COCO results against COCO ground truth"
    ),
    "evaluate vos": Command(
        "moduv.evaluation.vos:evaluate_vos", None, "followed masks: J and F of DAVIS"
    ),
    "depth objects": _shared(
        "moduv.dynamic_depth.objects:find_objects", "depth_objects", "which objects move"
    ),
    "depth align": _shared(
        "moduv.dynamic_depth.alignment:train_alignment",
        "depth_alignment",
        "learn from parked objects how deep an object stands",
    ),
    "depth pseudo": _shared(
        "moduv.dynamic_depth.mining:make_pseudo_depth",
        "pseudo_depth",
        "depths of what moves, from the road or an alignment",
    ),
    "depth train": _shared(
        "moduv.rounds.dynamic_depth:train_depth", "depth", "train stage 1 on with pseudo-depth"
    ),
    "depth pixelwise": _shared(
        "moduv.dynamic_depth.pixelwise.train:train_pixelwise",
        "depth_pixelwise",
        "published system, stage 1: depth, ego-motion, residual flow",
    ),
    "depth scenes": _shared(
        "moduv.dynamic_depth.pixelwise.scenes:predict_scenes",
        "depth_scenes",
        "its depth and what moves, frame by frame",
    ),
    "depth masks": _stage(
        "moduv.dynamic_depth.masks.given:import_masks",
        "depth_masks",
        "given images of masks as labels",
    ),
    "depth roadmasks": _stage(
        "moduv.dynamic_depth.masks.given:import_masks",
        "depth_roadmasks",
        "given images of the road as labels",
    ),
    "depth ground": _shared(
        "moduv.dynamic_depth.masks.road:train_ground", "depth_ground", "learn where the ground is"
    ),
    "depth road": _shared(
        "moduv.dynamic_depth.masks.road:predict_road", "depth_road", "masks of the ground"
    ),
    "depth slots": _shared(
        "moduv.dynamic_depth.masks.candidates:train_slots",
        "depth_slots",
        "slots that explain flow and depth",
    ),
    "depth candidates": _shared(
        "moduv.dynamic_depth.masks.candidates:find_candidates",
        "depth_candidates",
        "objects among the slots",
    ),
    "depth clean": _shared(
        "moduv.dynamic_depth.masks.candidates:clean_labels",
        "depth_clean",
        "labels that look like objects, without road",
    ),
    "depth shapes": _shared(
        "moduv.dynamic_depth.shapes:train_shapes", "depth_shapes", "depth of single objects"
    ),
    "depth final": _shared(
        "moduv.dynamic_depth.pixelwise.final:train_final",
        "depth_final",
        "published system, last stage: train on with pseudo-depth",
    ),
    "evaluate depth": Command(
        "moduv.runs.measure:measure_depth", None, "depth where things move and where they do not"
    ),
    "evaluate localisation": Command(
        "moduv.evaluation.localisation:evaluate_localisation",
        None,
        "CorLoc, DecRate, AP, ARI, mBO, published and corrected",
    ),
    "evaluate naming": Command(
        "moduv.evaluation.naming:evaluate_naming", None, "names of detections: accuracy, flips"
    ),
    "measure": Command("moduv.runs.measure:measure_run", "measure", "a run on held-out frames"),
    "report": Command("moduv.runs.report:report_run", "report", "write a run's report page"),
    "labels export": Command(
        "moduv.instances.exported:export_labels", None, "a label set as one COCO file"
    ),
    "labels import": Command(
        "moduv.instances.imported:import_labels",
        None,
        "a COCO file, edited or drawn, as a label set",
    ),
    "labels track": _shared(
        "moduv.rounds.tracked:track_labels",
        "tracked",
        "which labels of a clip are of one object",
    ),
    "labels propagate": _shared(
        "moduv.rounds.carried:propagate_labels",
        "carried",
        "labels for the frames beside labelled ones",
    ),
    "labels show": Command(
        "moduv.commands.show:show_labels", None, "draw the labels of some frames"
    ),
    "labels stats": Command("moduv.instances.store:label_statistics", None, "count a label set"),
    "labels check": Command("moduv.instances.store:check_labels", None, "find broken label files"),
    "correspondence propagate": _shared(
        "moduv.correspondence.predict:propagate_dataset",
        "propagated",
        "carry first masks through the videos of a data set",
    ),
    "demo": Command("moduv.commands.demo:demo", None, "detect in images and videos of your own"),
    "follow": Command(
        "moduv.commands.follow:follow",
        None,
        "a mask drawn in one frame, followed through a video",
        words="video",
    ),
    "export": Command(
        "moduv.commands.export:export", None, "a detector as ONNX, TorchScript or safetensors"
    ),
    "checkpoints list": Command(
        "moduv.commands.checkpoints:list_checkpoints",
        None,
        "official checkpoints and their sources",
    ),
    "checkpoints fetch": Command(
        "moduv.commands.checkpoints:fetch_checkpoints",
        None,
        "download and verify them",
        words="names",
    ),
    "checkpoints verify": Command(
        "moduv.commands.checkpoints:verify_checkpoints", None, "compare with record", words="names"
    ),
}
