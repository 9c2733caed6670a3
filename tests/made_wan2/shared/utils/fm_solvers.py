from .fm_solvers_unipc import FlowUniPCMultistepScheduler


class FlowDPMSolverMultistepScheduler(FlowUniPCMultistepScheduler):
    def set_timesteps(self, steps=None, device=None, sigmas=None):
        super().set_timesteps(len(sigmas), device)

    def step(self, prediction, timestep, sample, return_dict=True, generator=None):
        return super().step(prediction, timestep, sample)


def get_sampling_sigmas(steps, shift):
    return [1 - step / steps for step in range(steps)]


def retrieve_timesteps(scheduler, device=None, sigmas=None):
    scheduler.set_timesteps(sigmas=sigmas, device=device)
    return scheduler.timesteps, len(scheduler.timesteps)
