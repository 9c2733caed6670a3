from .flow import Flow


class FlowUniPCMultistepScheduler(Flow):
    def set_timesteps(self, steps, device=None, shift=1.0):
        self.begin(steps, device, shift)

    def step(self, prediction, timestep, sample, return_dict=True, generator=None):
        return self.moved(prediction, sample)
