"""What found objects are: open vocabularies, slots, patches that speak CLIP (Fan et al., ICCV 2023)."""
