//! Whole clusters of real processes and real databases.
