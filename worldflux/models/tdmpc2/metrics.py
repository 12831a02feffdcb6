"""What TD-MPC2's training metrics say, by the names that objective and agent give them."""

METRICS = {
    "loss/consistency": "Mean squared distance of each predicted latent to the encoding of what came, weighted by rho^t.",
    "loss/reward": "Cross-entropy of the two-hot reward, in nats, weighted by rho^t.",
    "loss/td": "Cross-entropy of all Q networks to the two-hot TD target, in nats, weighted by rho^t.",
    "loss/termination": "Binary cross-entropy of the termination head; only of models that have one.",
    "loss/own/<key>": "A loss term of your own, by its name in model.losses, before its scale; weighted by rho^t.",
    "loss/policy": "Loss of the policy prior: minus Q over q_scale, minus the entropy bonus; weighted by rho^t.",
    "loss/total": "Sum of the model's losses, each times its coefficient or scale; the policy's is not in it.",
    "td_target": "Mean TD target: reward plus discounted smaller of two target Q values.",
    "termination_rate": "Share of sequences whose last step is terminal; only of models with a termination head.",
    "termination_f1": "F1 score of what the termination head says of those steps.",
    "policy_entropy": "Mean entropy of the policy prior, in nats.",
    "policy_scaled_entropy": "The same, scaled by the number of action dimensions as the loss has it.",
    "q_scale": "Running range of Q values between their 5th and 95th percentile, by which the policy's loss is divided.",
    "q": "Mean Q value of the policy prior's actions.",
    "opt/grad_norm": "Global norm of the model's gradient before clipping.",
    "opt/policy_grad_norm": "Global norm of the policy prior's gradient before clipping.",
    "opt/learning_rate": "Learning rate of the newest update, before the encoder's factor.",
}
