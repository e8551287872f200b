//! Namespaces that serve in plaintext become strict, are rolled, scaled and upgraded, and no request fails.

use weft_testbed::cluster::{CONTROL, Cluster, Namespace, Shop, WEFT_NAMESPACE, cluster_story, figure};
use weft_testbed::{Report, Result};

/// Requests a second of each load: what the machine of a test carries besides.
const RATE: u32 = 40;

/// Requests of the longest story, none of which may fail.
const STEADY: u64 = 20_000;

/// A load over kept connections and one over fresh ones, through the whole chain.
struct Traffic<'a>(Vec<weft_testbed::cluster::ClusterLoad<'a>>);

impl<'a> Traffic<'a> {
    fn start(shop: &Shop<'a>) -> Result<Self> {
        let from = shop.namespace();
        let kept = from.load("kept", &shop.url()).rate(RATE).start()?;
        let fresh =
            from.load("fresh", &shop.url()).rate(RATE / 2).connections(8).fresh_connections().start()?;
        Ok(Self(vec![kept, fresh]))
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(weft_testbed::cluster::ClusterLoad::name).collect()
    }

    fn goes_on(&self) -> Result<()> {
        self.0.iter().try_for_each(|load| load.wait_for(50))
    }

    /// Nothing may have failed so far: told at once rather than at the end.
    fn fine(&self, after: &str) -> Result<()> {
        self.goes_on()?;
        for load in &self.0 {
            load.so_far()?
                .all_ok(1)
                .map_err(|error| error.context(format!("{} after {after}", load.name())))?;
        }
        Ok(())
    }

    /// Goes on until this many requests have been answered well in all, so that none is let off by a fast machine.
    fn reaches(&self, goal: u64) -> Result<()> {
        let mut ok = 0;
        for load in &self.0 {
            ok += load.so_far()?.ok;
        }
        let missing = goal.saturating_sub(ok);
        // The kept connections alone bring as many; a minute's worth at most in one wait, which may take two.
        let Some(kept) = self.0.first() else { return Ok(()) };
        let step = u64::from(RATE) * 60;
        for part in (0..missing).step_by(usize::try_from(step)?) {
            kept.wait_for(step.min(missing - part))?;
        }
        Ok(())
    }

    fn stop(self) -> Result<Report> {
        let mut sum = Report::default();
        for load in self.0 {
            sum.join(load.stop()?);
        }
        Ok(sum)
    }
}

fn open<'a>(cluster: &'a Cluster, name: &str) -> Result<(Shop<'a>, Traffic<'a>)> {
    let shop = Shop::open(cluster.namespace(name, &[])?)?;
    let traffic = Traffic::start(&shop)?;
    traffic.fine("the start in plaintext")?;
    Ok((shop, traffic))
}

/// Moves in, in an order, until both sides are strict.
fn move_in(namespace: Namespace<'_>, order: &[&str], traffic: &Traffic<'_>) -> Result<()> {
    namespace.label("weft.dev/inject=enabled")?;
    traffic.fine("the label")?;
    for name in order {
        namespace.restart(&[name])?;
        traffic.fine(&format!("the restart of {name}"))?;
    }
    namespace.strict(&["web", "orders", "inventory", "redis"])?;
    traffic.fine("being strict towards the services")?;
    namespace.annotate("weft.dev/mode=strict")?;
    Shop::of(namespace).until_refused()?;
    traffic.fine("being strict inbound")
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn clients_move_in_first() {
    cluster_story("clients-first", |cluster| {
        cluster.install(&[])?;
        let (shop, traffic) = open(cluster, "clients-first")?;
        let order = [&traffic.names()[..], &Shop::ALL].concat();
        move_in(shop.namespace(), &order, &traffic)?;
        traffic.stop()?.all_ok(2000)
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn servers_move_in_first_and_the_day_goes_on() {
    cluster_story("servers-first", |cluster| {
        cluster.install(&[])?;
        let (shop, traffic) = open(cluster, "servers-first")?;
        let namespace = shop.namespace();
        let servers: Vec<&str> = Shop::ALL.into_iter().rev().collect();
        let order = [&servers[..], &traffic.names()].concat();
        move_in(namespace, &order, &traffic)?;

        for name in Shop::ALL {
            namespace.restart(&[name])?;
            traffic.fine(&format!("another restart of {name}"))?;
        }
        // Not redis, whose copies would each count for themselves, which fails nothing but means nothing either.
        for name in ["web", "orders", "inventory"] {
            for replicas in [3, 1] {
                namespace.scale(name, replicas)?;
                traffic.fine(&format!("scaling {name} to {replicas}"))?;
            }
        }
        for name in ["web", "orders", "inventory"] {
            namespace.scale(name, 2)?;
            let pods = namespace.pod_names(name)?;
            for pod in &pods {
                namespace.run(&["delete", "pod", pod])?;
                namespace.ready(&[name])?;
                traffic.fine(&format!("the deletion of {pod}"))?;
            }
        }
        cluster.existing(WEFT_NAMESPACE).run(&["rollout", "restart", CONTROL])?;
        cluster.control_ready()?;
        traffic.fine("the restart of weft-control")?;
        traffic.reaches(STEADY)?;
        let all = traffic.stop()?;
        figure("requests through a whole day", format!("{} ok, {} failed", all.ok, all.failures()));
        all.all_ok(STEADY)
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn weft_is_upgraded_control_first_and_proxies_after() {
    cluster_story("upgrade", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("upgrade", &[("weft.dev/inject", "enabled")])?;
        let shop = Shop::open(namespace)?;
        let traffic = Traffic::start(&shop)?;
        traffic.fine("the start in the mesh")?;
        cluster.install_image(cluster.next_image(), &[])?;
        traffic.fine("the upgrade of weft-control")?;
        for name in [&Shop::ALL[..], &traffic.names()].concat() {
            namespace.restart(&[name])?;
            traffic.fine(&format!("the upgrade of {name}"))?;
            let pods = namespace.pods(&format!("app={name}"))?;
            let images = pods.iter().map(|pod| pod["spec"]["initContainers"][0]["image"].as_str());
            let images: Vec<_> = images.collect();
            anyhow::ensure!(
                images.iter().all(|image| *image == Some(cluster.next_image())),
                "{name}: {images:?}"
            );
        }
        traffic.stop()?.all_ok(1000)?;
        cluster.install(&[])
    });
}
