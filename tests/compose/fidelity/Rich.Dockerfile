FROM scratch
COPY busybox /bin/busybox
COPY busybox /bin/sh
COPY busybox /image-volume/busybox
ARG V
ARG OF
ENV V=$V OF=$OF
LABEL of.image=$V
VOLUME /image-volume
VOLUME ["/other-volume"]
EXPOSE 6000
WORKDIR /srv
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=1s CMD ["/bin/busybox", "true"]
CMD ["/bin/busybox", "sh"]
