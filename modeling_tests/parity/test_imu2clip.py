"""IMU2CLIP's encoders against what the original code gave, from each layout of their files."""


def test_equals_the_original(recording, converted):
    found = recording("imu2clip")
    for stem in ("src_encoder", "best_ckpt_state_dict", "patch_transformer"):
        if (tensors := found.weights(stem)) is not None:
            found.replay("imu2clip", converted("imu2clip", config=found.config, files={stem: tensors}), atol=2e-5)
    found.finish()
