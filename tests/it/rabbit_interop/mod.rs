//! Programs that know nothing of the framework, on the same queues: Python with pika.

mod accuracy;
mod adoption;
mod asked;
mod bounds;
mod calls;
mod capabilities;
mod corpus;
mod dead;
mod dead_elsewhere;
mod exchanges;
mod hostile;
mod neighbour;
mod orders;
mod page;
mod permissions;
mod retried;
mod shards;
mod topology;
