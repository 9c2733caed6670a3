import torch


class AudioEncoder:
    def __init__(self, device="cpu", model_id="facebook/wav2vec2-base-960h"):
        self.model = torch.nn.Linear(4, 32)

    def extract_audio_feat(self, audio_path, return_all_layers=False):
        return self.model(torch.ones(1, 2, 4))
