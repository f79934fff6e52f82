//! The kernels of the matrix.

/// A kernel, and where Debian has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    /// Its name in the table and on the command line.
    pub(crate) name: &'static str,
    /// The suites that have it, of which the newest package is taken: versions come and go in a mirror.
    pub(crate) suites: &'static [&'static str],
    /// The major version, and the minor one if that is fixed.
    series: (u32, Option<u32>),
    /// Belongs to the subset that every change runs.
    pub(crate) quick: bool,
}

/// From the oldest that can be had to the newest.
pub(crate) const KERNELS: [Kernel; 5] = [
    Kernel { name: "5.10", suites: &["bullseye"], series: (5, Some(10)), quick: true },
    Kernel { name: "6.1", suites: &["bookworm"], series: (6, Some(1)), quick: true },
    Kernel { name: "6.12", suites: &["trixie"], series: (6, Some(12)), quick: false },
    Kernel { name: "6.18", suites: &["trixie-backports"], series: (6, Some(18)), quick: false },
    Kernel { name: "newest", suites: &["forky"], series: (7, None), quick: true },
];

impl Kernel {
    /// The newest of these packages that is this kernel, in the flavour for virtual machines.
    pub(crate) fn newest<'a>(&self, packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        packages.filter_map(|package| Some((self.version(package)?, package))).max().map(|(_, package)| package)
    }

    /// The numbers in the name of a package such as `linux-image-6.1.0-50-cloud-amd64`, if it is one of this kernel.
    fn version(&self, package: &str) -> Option<Vec<u32>> {
        let version = package.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
        let numbers: Vec<u32> = version.split(['.', '-', '+']).filter_map(|part| part.parse().ok()).collect();
        let (major, minor) = self.series;
        let fits = *numbers.first()? == major && minor.is_none_or(|minor| numbers.get(1) == Some(&minor));
        fits.then_some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_the_series_is_taken() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-51-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64",
            "linux-image-7.2.12+deb14-cloud-amd64",
            "linux-image-7.2.9+deb14-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        let newest = |name| {
            let kernel = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
            kernel.newest(packages.iter().copied())
        };
        assert_eq!(newest("6.1"), Some(packages[1]));
        assert_eq!(newest("6.12"), Some(packages[4]));
        assert_eq!(newest("newest"), Some(packages[5]));
        assert_eq!(newest("5.10"), None);
    }
}
