import logging

import torch


def _write(tensor, save_file):
    try:
        torch.save(tensor.clamp(-1, 1).contiguous(), save_file)
    except Exception as error:
        logging.info(f"save failed, error: {error}")


def save_video(tensor, save_file=None, fps=16):
    _write(tensor, save_file)


def cache_video(tensor, save_file=None, fps=16):
    _write(tensor, save_file)


def save_image(tensor, save_file):
    _write(tensor, save_file)


def cache_image(tensor, save_file):
    _write(tensor, save_file)


def merge_video_audio(video_path, audio_path):
    logging.info(f"merging {audio_path}")
