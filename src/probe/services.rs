//! Managed services, by the host names of their servers. The changes by a proxy in front of a server cannot be asked:
//! such a server claims to be standalone. So this is from the services' own documentation.

use crate::config::{Address, Endpoint};

/// A service, and the facts that its server does not report.
#[derive(Debug, PartialEq, Eq)]
pub struct ManagedService {
    /// The service's name.
    pub name: &'static str,
    /// The consequence for the routes.
    pub note: &'static str,
    /// Parts of the host name: in it, and at its end.
    host: (&'static str, &'static str),
}

/// The more special one first.
const SERVICES: [ManagedService; 12] = [
    ManagedService {
        name: "ElastiCache serverless",
        note: "a proxy before a cluster: as a source use one instance, because two may receive different orders",
        host: (".serverless.", ".cache.amazonaws.com"),
    },
    ManagedService {
        name: "ElastiCache",
        note: "it rejects PSYNC and CONFIG, so mode = \"replication\" is not possible",
        host: ("", ".cache.amazonaws.com"),
    },
    ManagedService {
        name: "MemoryDB",
        note: "it is always a cluster, which this version does not support",
        host: (".memorydb.", ".amazonaws.com"),
    },
    ManagedService {
        name: "Azure Cache for Redis",
        note: "it rejects PSYNC and CONFIG, so mode = \"replication\" is not possible",
        host: ("", ".redis.cache.windows.net"),
    },
    ManagedService { name: "Azure Managed Redis", note: ENTERPRISE, host: ("", ".redis.azure.net") },
    ManagedService {
        name: "Azure Cache for Redis Enterprise",
        note: ENTERPRISE,
        host: ("", ".redisenterprise.cache.azure.net"),
    },
    ManagedService { name: "Redis Cloud", note: ENTERPRISE, host: ("", ".redis-cloud.com") },
    ManagedService { name: "Redis Cloud", note: ENTERPRISE, host: ("", ".redislabs.com") },
    ManagedService { name: "Redis Cloud", note: ENTERPRISE, host: ("", ".rlrcp.com") },
    ManagedService {
        name: "Aiven",
        note: "it rejects CONFIG, ACL and REPLICAOF, so mode = \"replication\" is not possible",
        host: ("", ".aivencloud.com"),
    },
    ManagedService {
        name: "OCI Cache",
        note: "it rejects PSYNC, and a sharded one also scripts: only one that is not sharded can be a destination",
        host: (".redis.", ".oci.oraclecloud.com"),
    },
    ManagedService {
        name: "Upstash",
        note: "it is not Redis' own program: rely on it only where this command finds no problem",
        host: ("", ".upstash.io"),
    },
];

const ENTERPRISE: &str =
    "a proxy that claims to be a single server: as a source use a database with one shard";

/// The service that an endpoint's servers belong to, as far as their names tell.
#[must_use]
pub fn managed_service(endpoint: &Endpoint) -> Option<&'static ManagedService> {
    endpoint.addresses().iter().find_map(|address| match address {
        Address::Tcp { host, .. } => by_host(&host.to_ascii_lowercase()),
        Address::Unix(_) => None,
    })
}

fn by_host(host: &str) -> Option<&'static ManagedService> {
    let host = host.strip_suffix('.').unwrap_or(host);
    SERVICES.iter().find(|service| host.contains(service.host.0) && host.ends_with(service.host.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_the_host_names_that_they_give() {
        for (host, expected) in [
            ("shop-ab12cd.serverless.use1.cache.amazonaws.com", Some("ElastiCache serverless")),
            ("master.shop.ab12cd.euw1.cache.amazonaws.com", Some("ElastiCache")),
            ("clustercfg.shop.ab12cd.memorydb.us-east-1.amazonaws.com", Some("MemoryDB")),
            ("shop.redis.cache.windows.net", Some("Azure Cache for Redis")),
            ("shop.westeurope.redis.azure.net", Some("Azure Managed Redis")),
            ("shop.westeurope.redisenterprise.cache.azure.net", Some("Azure Cache for Redis Enterprise")),
            ("redis-12345.c1.us-east-1-2.ec2.redns.redis-cloud.com", Some("Redis Cloud")),
            ("shop-team.b.aivencloud.com.", Some("Aiven")),
            ("abc-p.redis.us-ashburn-1.oci.oraclecloud.com", Some("OCI Cache")),
            ("shop.upstash.io", Some("Upstash")),
            ("redis.internal", None),
            ("cache.amazonaws.com.example", None),
            ("10.0.0.7", None),
        ] {
            assert_eq!(by_host(host).map(|service| service.name), expected, "{host}");
        }
    }
}
