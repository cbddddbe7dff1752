"""nuScenes' scenes (Caesar et al. 2020), and the annotated single images of nuImages."""
