from .flow import Flow


class FlowDPMSolverMultistepScheduler(Flow):
    def set_timesteps(self, steps=None, device=None, sigmas=None):
        self.begin(len(sigmas), device, 1.0)

    def step(self, prediction, timestep, sample, return_dict=True, generator=None):
        return self.moved(prediction, sample)


def get_sampling_sigmas(steps, shift):
    return [1 - step / steps for step in range(steps)]


def retrieve_timesteps(scheduler, device=None, sigmas=None):
    scheduler.set_timesteps(sigmas=sigmas, device=device)
    return scheduler.timesteps, len(scheduler.timesteps)
