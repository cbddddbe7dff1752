#!/usr/bin/env bash
# Names, step 3: patches of a frozen CLIP model learn to speak its language, without captions.
#   CLIP=open_clip_model.safetensors IMAGES=imagenet/train bash scripts/naming/3_train_patch_clip.sh [options]
# CLIP is a ViT-B/16 of open_clip with OpenAI's activation, IMAGES any folder of images. Weights come to
# save/NAME/names/patches/weights.pth. Options are those of the numbered scripts.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

need CLIP "name the weights of a ViT-B-16-quickgelu of open_clip"
need IMAGES "name a folder of images, such as ImageNet's"
name patches --preset "$PRESET" --tower "$CLIP" --images "$IMAGES" --out "$NAMES/patches"
