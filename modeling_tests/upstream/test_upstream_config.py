"""Upstream's tests of configs."""

import json
import unittest

from modeling_tests.upstream import _package

from transformers_anymodality import AnyModalityConfig


common = _package.load("test_configuration_common")

from modeling_tests.upstream._tiny import TinyModelTester, composed, composed_tied  # noqa: E402


class ConfigTest(unittest.TestCase):
    composite = staticmethod(composed)

    def setUp(self):
        self.model_tester = TinyModelTester(self, self.composite)

    def _tester(self, **kwargs):
        return common.ConfigTester(self, config_class=AnyModalityConfig, has_text_modality=False, **kwargs)

    def test_config(self):
        config = self.model_tester.get_config()
        saved = json.loads(config.to_json_string())
        parts = {key: saved[key] for key in ("modalities", *config.sub_configs)}
        self._tester(**parts).run_common_tests()

    def test_config_without_modalities(self):
        self._tester(common_properties=["text_config", "modalities"]).run_common_tests()


class TiedConfigTest(ConfigTest):
    composite = staticmethod(composed_tied)
