# Under the name of the official image, from Debian's packages: same user, same variables, same folders.
FROM heterosync-test/services
RUN install -d -o postgres -g postgres -m 3777 /run/postgresql \
    && install -d -o postgres -g postgres /var/lib/postgresql/data \
    && ln -sf /usr/lib/postgresql/*/bin/* /usr/local/bin/
COPY postgres.sh /usr/local/bin/start-postgres
ENV PGDATA=/var/lib/postgresql/data
CMD ["sh", "/usr/local/bin/start-postgres"]
