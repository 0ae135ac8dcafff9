import tinker
from tinker import types
client = tinker.ServiceClient(base_url="http://localhost:8080", api_key="tml-local-dev-key")
capabilities = client.get_server_capabilities()
base_model = capabilities.supported_models[0].model_name
training = client.create_lora_training_client(base_model=base_model, rank=8)
prompt_tokens = [101, 42, 37, 102]
target_tokens = [101, 99, 73, 102]
datum = types.Datum(
    model_input=types.ModelInput.from_ints(prompt_tokens),
    loss_fn_inputs={"target_tokens": types.TensorData(data=target_tokens, dtype="int64", shape=[len(target_tokens)])},
)
fwdbwd = training.forward_backward([datum], "cross_entropy").result(timeout=30)
optim = training.optim_step(types.AdamParams(learning_rate=1e-4)).result(timeout=30)
checkpoint = training.save_state("demo-checkpoint").result(timeout=60)
sampler_weights = training.save_weights_for_sampler("demo-sampler").result(timeout=60)
rest = client.create_rest_client()
session_info = rest.get_session(client.holder.get_session_id()).result(timeout=30)
sampling = client.create_sampling_client(model_path=sampler_weights.path)
sample = sampling.sample(prompt=types.ModelInput.from_ints([101, 57, 12, 7, 102]), num_samples=1,
                         sampling_params=types.SamplingParams(max_tokens=5, temperature=0.5)).result(timeout=30)
print(fwdbwd.metrics, optim.metrics, session_info.training_run_ids, sample.sequences[0].tokens, checkpoint.path)
