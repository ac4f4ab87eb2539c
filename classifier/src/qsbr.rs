//! Quiescent-state-based reclamation: one writer publishes, workers read without waiting, memory is freed once
//! every worker has passed a burst.
