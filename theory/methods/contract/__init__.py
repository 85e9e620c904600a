"""What every method and every task keeps to; its names are on the face, `theory.methods`.

method    Method: setup, collect, loss, after_step, optimum, target, allowed rewards
online    Online: a lagging copy of the student, epochs, a pool of samples
anchor    Anchored: a penalty that holds the velocity to a reference
task      Task: path, reward, base samples; ProblemTask: one where exact answers exist
draws     Draws: explicit random numbers, one generator a network
auxiliary what a task makes for methods that train networks of their own
returned  a method's parts, called and held to the contract: a user's file is named
probe     the sweeps that every method passes: shapes, determinism, expected gradients
restoring whether the expected gradient leads back to the optimum; `places` has the policies
          there and at the reference, `perturbed` their models
"""
